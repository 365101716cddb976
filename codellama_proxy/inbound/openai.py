"""OpenAI's endpoints: chats, completions and embeddings. Answers are in their format already.

Completions and embeddings take text or token ids, one or several.
(platform.openai.com/docs/api-reference/completions, .../embeddings)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from codellama_proxy.core import sse
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event
from codellama_proxy.inbound.dialect import Dialect, Headers
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.native import betas
from codellama_proxy.openai_format.fields import (
    check_fields,
    check_items,
    invalid_type,
    invalid_value,
    parse_json,
)
from codellama_proxy.openai_format.parameters import COMPLETION_PARAMETERS, EMBEDDING_PARAMETERS, MAX_INT
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest, parse_chat, request_of

ENCODINGS = ("float", "base64")
MAX_EMBEDDING_VALUES = 500_000
"""JSON values of a body: token ids are many, and quickly worked through."""


def parse_completion(body: bytes, request_id: str = "", created: int = 0) -> InferenceRequest:
    """A completion request from its body. Raises `ProxyError` with status 400 and `param`."""
    fields = check_fields(parse_json(body), COMPLETION_PARAMETERS)
    check_items(fields)
    _check_given("prompt", fields)
    return request_of("completions", (), fields, len(body), request_id, created)


def parse_embedding(body: bytes, request_id: str = "", created: int = 0) -> InferenceRequest:
    """An embedding request from its body. Raises `ProxyError` with status 400 and `param`."""
    fields = check_fields(parse_json(body, MAX_EMBEDDING_VALUES), EMBEDDING_PARAMETERS)
    _check_given("input", fields)
    if fields.get("stream"):
        raise ProxyError("unsupported_parameter", "Embeddings are not streamed.", param="stream")
    if fields.get("encoding_format", "float") not in ENCODINGS:
        raise invalid_value("encoding_format", f"'encoding_format' must be one of {', '.join(ENCODINGS)}.")
    return request_of("embeddings", (), fields, len(body), request_id, created)


PARSERS: Mapping[Endpoint, Callable[[bytes, str, int], InferenceRequest]] = {
    "chat/completions": parse_chat,
    "completions": parse_completion,
    "embeddings": parse_embedding,
}


class OpenAIEncoder:
    """Writes events as they are."""

    __slots__ = ("_include_usage",)

    form: Literal["body"] = "body"

    def __init__(self, request: InferenceRequest, seals: Seals | None = None) -> None:
        del seals
        self._include_usage = request.include_usage

    def events(self, events: Sequence[Event], *, ended: bool) -> bytes:
        include_usage = self._include_usage
        shown = [e.body for e in events if e.body and (include_usage or not e.usage_only)]
        if ended:
            shown.append(sse.DONE)
        return sse.encode(*shown)

    def whole(self, event: Event) -> bytes:
        return event.body

    def broken(self, error: ProxyError) -> bytes:
        """An error event, without [DONE]."""
        return sse.encode(error.body())


def _dialect(endpoint: Endpoint, parse: Callable[[bytes, str, int], InferenceRequest]) -> Dialect:
    def parsed(
        body: bytes, headers: Headers, request_id: str, created: int, seals: Seals | None = None, /
    ) -> InferenceRequest:
        del headers, seals
        return _without_refused_betas(parse(body, request_id, created))

    def error_body(error: ProxyError, request_id: str) -> bytes:
        del request_id
        return error.body()

    return Dialect(endpoint, parsed, OpenAIEncoder, error_body, sse.HEARTBEAT)


def _without_refused_betas(request: InferenceRequest) -> InferenceRequest:
    if request.params.keys().isdisjoint(betas.FIELDS):
        return request
    params, dropped = betas.permitted_fields(request.params)
    return request._replace(params=params, ignored=dropped) if dropped else request


OPENAI_DIALECTS: Mapping[Endpoint, Dialect] = {
    endpoint: _dialect(endpoint, parse) for endpoint, parse in PARSERS.items()
}


def _check_given(name: str, fields: Mapping[str, Any]) -> None:
    """Checks text, token ids, or a list of either."""
    given = fields.get(name)
    if given is None:
        raise ProxyError("missing_required_parameter", f"'{name}' is required.", param=name)
    if isinstance(given, str):
        return
    if not given:
        raise invalid_value(name, f"'{name}' must not be empty.")
    if not (_all_texts(given) or are_ids(given) or all(are_ids(one) for one in given)):
        raise invalid_type(name, "string, array of strings, array of token ids or array of those")


def _all_texts(given: Sequence[Any]) -> bool:
    return all(isinstance(one, str) for one in given)


def are_ids(found: Any) -> bool:
    """Whether this is one text given as token ids."""
    return (
        isinstance(found, list)
        and bool(found)
        and set(map(type, found)) == {int}
        and min(found) >= 0
        and max(found) <= MAX_INT
    )
