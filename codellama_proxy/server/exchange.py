"""One request and its response by direct calls: what ASGI's messages do, without their cost.

The inference endpoints use it where it is offered; everything works the same through ASGI. Response heads are written
together with the first piece of their body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

UNSAFE = re.compile("[\0-\x09\x0b-\x1f\x7f]")
"""Control characters other than the line feed, none of which a header may contain."""


class DirectExchange:
    """`web.connection.Exchange` over uvicorn's ASGI cycle, whose state it shares."""

    __slots__ = ("_cycle", "_head")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._head = b""

    def body(self) -> bytes | None:
        """The request's body; `None` if it has not arrived completely."""
        cycle = self._cycle
        if cycle.more_body:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than it is written to."""
        return self._cycle.flow.write_paused and not self._cycle.disconnected

    async def drain(self) -> None:
        """Returns when the client has read enough, or disconnected."""
        await self._cycle.flow.drain()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the response, chunked if it has no content length. Raises `ValueError` for unsafe headers."""
        cycle = self._cycle
        lines = "\n".join([f"{name}: {value}" for name, value in headers.items()])
        if lines.count("\n") != len(headers) - 1 or UNSAFE.search(lines):
            raise ValueError("control character in a response header")
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.chunked_encoding = "content-length" not in headers
        ending = "\r\ntransfer-encoding: chunked\r\n\r\n" if cycle.chunked_encoding else "\r\n\r\n"
        if headers.get("connection") == "close":
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            ending = f"\r\nconnection: close{ending}"
        defaults = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
        text = lines.replace("\n", "\r\n") + ending
        self._head = STATUS_LINE[status] + defaults + text.encode("latin-1")

    def write(self, data: bytes, *, last: bool) -> None:
        """A piece of the body. Writes nothing once the client has disconnected."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        head, self._head = self._head, b""
        if not cycle.chunked_encoding:
            cycle.transport.write(head + data if head else data)
        else:
            piece = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            cycle.transport.write(b"%b%b%b" % (head, piece, b"0\r\n\r\n" if last else b""))
        if last:
            cycle.response_complete = True
            cycle.message_event.set()
            if not cycle.keep_alive:
                cycle.transport.close()
            cycle.on_response()
