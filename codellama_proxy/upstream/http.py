"""HTTP exchanges with upstreams: transports, their responses and their errors.

Tests replace the network by transports of their own. A transport sends each request at most once and moves raw bytes:
no decompression, no redirects, no cookies, no proxies from the environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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
        """The body, if it has arrived completely and nothing of it has been read, which ends the exchange.

        `None`: nothing is read.
        """
        return None

    def is_read(self) -> bool:
        """Whether all of it was received and read."""
        return False

    async def pour(self, sink: Sink) -> bool:
        """Gives the pieces to `sink` until it takes no more. Returns `False` at the body's end."""
        async for piece in self:
            if not sink(piece):
                return True
        return False

    def ends_chunk(self, piece: bytes) -> bool:
        """Whether `piece`, just given to the sink of `pour`, was all that arrived: one whole chunk (RFC 9112, 7.1)."""
        del piece
        return False

    def pass_on(self, relay: Sink) -> None:
        """Gives `relay` what arrives next, framing included, until it returns `False` for what it leaves unread.

        Only right after `ends_chunk`. Ends with the call of `pour`.
        """
        raise NotImplementedError(f"not read in chunks: {relay}")

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

    def is_read(self) -> bool:
        return not self._left

    def arrived(self) -> bytes:
        content, self._left = self._left, b""
        return content


class ReceivedHeaders(Mapping[str, str]):
    """The fields of a response's head, decoded when they are read: most never are."""

    __slots__ = ("_fields", "_values")

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self._fields = fields
        """Names and values as received."""
        self._values: dict[bytes, bytes] | None = None
        """By name in lower case; the values of a repeated name are joined."""

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]  # of strings only
        value = self._joined().get(name.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __getitem__(self, name: str) -> str:
        return self._joined()[name.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return iter([name.decode("latin-1") for name in self._joined()])

    def __len__(self) -> int:
        return len(self._joined())

    def _joined(self) -> dict[bytes, bytes]:
        values = self._values
        if values is None:
            values = self._values = {}
            for name, value in self._fields:
                name = name.lower()  # noqa: PLW2901
                values[name] = b"%b, %b" % (values[name], value) if name in values else value
        return values


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
