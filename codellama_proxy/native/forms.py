"""The dialects whose requests are passed on as they came, and what can be edited in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from codellama_proxy.native import messages, responses
from codellama_proxy.native.blocks import Body
from codellama_proxy.openai_format.request import DialectName, InferenceRequest, Native


class Form(Protocol):
    """One dialect. Every function returns the body itself where nothing changes, or a changed copy."""

    @property
    def PRICED_FIELDS(self) -> Sequence[str]:  # noqa: N802 - a constant of the module
        """Fields that change the price."""

    def guarded(self, body: Body, text: str, client_system: str) -> Body: ...

    def with_defaults(self, body: Body, params: Mapping[str, Any]) -> Body: ...

    def without_own_reasoning(self, body: Body) -> Body: ...

    def without_reasoning(self, body: Body) -> Body: ...

    def has_reasoning(self, body: Body) -> bool: ...

    def check(self, body: Body) -> None: ...

    def tools(self, body: Body) -> Iterator[Body]: ...

    def without_tools(self, body: Body, gone: Callable[[Any], bool]) -> Body: ...

    def has_hour_marks(self, body: Body) -> bool: ...

    def without_hour_marks(self, body: Body) -> Body: ...


FORMS: Mapping[DialectName, Form] = {"messages": messages, "responses": responses}


def form_of(request: InferenceRequest) -> Form:
    """The dialect of a request that has a native form."""
    return FORMS[request.dialect]


def edited(request: InferenceRequest, edit: Callable[[Body], Body]) -> InferenceRequest:
    """The request with its native body edited."""
    assert request.native is not None
    return request._replace(native=Native(edit(request.native.body), request.native.headers))
