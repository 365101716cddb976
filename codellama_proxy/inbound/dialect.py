"""What an API dialect at the door provides: it parses requests, and writes answers and errors in its form.

The mirror of `providers`: everything between the two works on OpenAI's chat format. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Event
from codellama_proxy.inbound.sealed import Seals
from codellama_proxy.limits.rates import Rate
from codellama_proxy.openai_format.request import InferenceRequest

Headers = Callable[[], Mapping[str, str]]
"""The client's headers, names in lower case; called only by dialects that read them."""


class Encoder(Protocol):
    """Writes one answer. Keeps the state of a stream between calls."""

    @property
    def form(self) -> Literal["body", "raw"] | None:
        """What `events` writes of an event with content: its body, by `sse.encode`; its `raw`; or `None`: neither."""

    def events(self, events: Sequence[Event], *, ended: bool) -> bytes:
        """The part of a stream that these events become, which may be empty; `ended`: they are the last."""

    def whole(self, event: Event) -> bytes:
        """The body of a plain answer."""

    def broken(self, error: ProxyError) -> bytes:
        """The last part of a stream that has begun and cannot be completed."""


class Parse(Protocol):
    def __call__(
        self, body: bytes, headers: Headers, request_id: str, created: int, seals: Seals | None = None, /
    ) -> InferenceRequest:
        """The request in `body`. Raises `ProxyError` with status 400 and `param`. `created` is in Unix seconds.

        Without `seals`, reasoning that was sealed is not read.
        """


class ResponseHeaders(Protocol):
    def __call__(self, request_id: str, requests: Rate | None, tokens: Rate | None, now: float) -> str:
        """The lines of headers of every response, errors included, each with its end; `now` is in Unix seconds."""


class Dialect(NamedTuple):
    """One inference endpoint's."""

    endpoint: str
    """Its name in rows, logs and permissions."""
    parse: Parse
    encoder: Callable[[InferenceRequest, Seals | None], Encoder]
    """Without seals, reasoning that the client keeps is not sealed."""
    error_body: Callable[[ProxyError, str], bytes]
    """The body of an error response; the second argument is the request id."""
    heartbeat: bytes
    """Sent in a stream after a long silence."""
    headers: ResponseHeaders | None = None
    """Response headers that only this dialect has."""
