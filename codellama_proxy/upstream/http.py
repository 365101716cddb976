"""HTTP exchanges with upstreams: transports, their responses and their errors.

Tests replace the network by transports of their own. A transport sends each request at most once and moves raw bytes:
no decompression, no redirects, no cookies, no proxies from the environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from codellama_proxy.core.types import Failure, HttpRequest
from codellama_proxy.failures import classify as failures

Sink = Callable[[bytes], bool]
"""Gets the pieces of a body as they arrive; `False` if it takes no more for now. What it raises ends the reading."""


class TransportError(Exception):
    """An exchange failed; the text is a short detail without addresses."""

    reason = "broken_connection"
    """The reason of the failure that it is."""
    sent = True
    """Whether the upstream may have received the request."""
    timed_out = False

    @property
    def failure(self) -> Failure:
        failed = failures.timed_out if self.timed_out else failures.unreachable
        return failed(self.reason, sent=self.sent)


class AddressError(TransportError):
    """The URL has no usable scheme or host."""

    reason = "address"
    sent = False


class ResponseBody(ABC, AsyncIterator[bytes]):
    """A body as it arrives. Its own iterator, so that nothing of it outlives an early exit.

    Reading raises `TransportError`.
    """

    __slots__ = ()

    def __aiter__(self) -> ResponseBody:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes: ...

    def arrived(self) -> bytes | None:
        """The body, if it has arrived completely and nothing of it has been read; else nothing is read."""
        return None

    async def pour(self, sink: Sink) -> bool:
        """Gives the pieces to `sink` until it takes no more. Returns `False` at the body's end."""
        async for piece in self:
            if not sink(piece):
                return True
        return False

    async def aclose(self) -> None:
        """Ends the exchange; the connection is kept if the body was read to its end."""


class BytesBody(ResponseBody):
    """A body in memory."""

    __slots__ = ("_left",)

    def __init__(self, content: bytes = b"") -> None:
        self._left = content

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self.arrived()

    def arrived(self) -> bytes:
        content, self._left = self._left, b""
        return content


class Response:
    """A response whose body may still arrive. Whoever has it closes its body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: ResponseBody) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case; the values of a repeated name are joined by `, ` (RFC 9110, 5.3)."""
        self.body = body


class Transport(Protocol):
    """The connections to one upstream."""

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        """Waits at most `connect_seconds` for a new connection. Raises `TransportError`."""

    async def aclose(self) -> None: ...
