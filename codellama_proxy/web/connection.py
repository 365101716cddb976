"""What a request's scope tells about its connection, and how long clients may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from starlette.types import Scope

from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.web.client_headers import ClientHeaders

TIMEOUTS = "codellama_proxy.timeouts"
"""In a request's scope: the `ClientTimeouts` of its connection."""

ON_DISCONNECT = "codellama_proxy.on_disconnect"
"""In a request's scope: called if the client disconnects before it has its response. Faster than a task that waits
for `receive` to report it."""

ON_HALF_CLOSE = "codellama_proxy.on_half_close"
"""In the scope of a request with an open stream: writes a comment, which a client that closed entirely resets."""

BODY_COMPLETE = "codellama_proxy.body_complete"
"""In a request's scope once the whole body has arrived."""

BODY_ROOM = "codellama_proxy.body_room"
"""In the scope of a request whose body did not arrive with its head: returns how many more bytes are read at most."""

REFUSED = "codellama_proxy.refused"
"""In a request's scope: the `ProxyError` already sent on its connection, because its body was malformed."""

EXCHANGE = "codellama_proxy.exchange"
"""In the scope of a direct request: its `Exchange`. Whoever takes it removes it, since each refers to the other."""


class Exchange(Protocol):
    """One request and its response by direct calls, instead of by ASGI's messages."""

    client_headers: ClientHeaders
    """The request's."""

    def take_body(self) -> bytes | None:
        """The request's body; `None` if it has not arrived completely."""

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than it is written to."""

    async def drain(self) -> None:
        """Returns when the client has read enough, or disconnected."""

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The response's head, sent with the first piece of its body."""

    def write(self, data: bytes, *, last: bool) -> None:
        """A piece of the body."""

    def respond(self, status: int, headers: HeaderLines, body: bytes) -> None:
        """The whole response in one write. `headers` have the content length, and nothing about the connection."""

    def finish(self) -> None:
        """Called when the request is over. Closes a connection whose client has no complete response."""

    passed_at: float
    """The event loop's time of the last `pass_on`."""

    def pass_on(self, chunk: bytes, now: float) -> bool:
        """A piece of the body, framed as HTTP chunks already; `False` if it cannot be written now.

        `now`: the event loop's time.
        """


class ClientTimeouts(NamedTuple):
    """Seconds."""

    head: float = 10.0
    """For the head of a request, from the start of the connection or from its first byte."""
    body: float = 30.0
    """For its body, from the end of the head."""
    send: float = 30.0
    """For a client that does not read, or hardly, once the buffers are full."""
    heartbeat: float = 15.0
    """Of silence in a stream, after which a comment keeps the connection open."""


def client_timeouts(scope: Scope) -> ClientTimeouts:
    found = scope.get(TIMEOUTS)
    return found if isinstance(found, ClientTimeouts) else ClientTimeouts()
