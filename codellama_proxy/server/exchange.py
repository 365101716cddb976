"""One request and its response by direct calls: what ASGI's messages do, without their cost.

The inference endpoints use it where it is offered; everything works the same through ASGI. Response heads are written
together with the first piece of their body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.web.client_headers import ClientHeaders
from codellama_proxy.web.connection import EXCHANGE, TIMEOUTS, ClientTimeouts

CONTROL_CHARACTERS = bytes([*range(32), 127])


def do_nothing() -> None:
    """Replaces `on_response` of an exchange that is over."""


class Unheard:
    """The event of an exchange before anyone waits for it, which most never do."""

    def set(self) -> None:
        return


class DirectExchange(RequestResponseCycle):
    """`web.connection.Exchange`, and uvicorn's cycle for the connection. Its scope has only what the endpoints read."""

    logger = logging.getLogger("uvicorn.error")
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    message_event: Any = Unheard()
    passed_at = 0.0
    _head = b""

    def __init__(
        self,
        connection: HttpToolsProtocol,
        client_headers: ClientHeaders,
        version: str,
        timeouts: ClientTimeouts,
    ) -> None:
        """`version` is HTTP's: `1.1` or `1.0`."""
        self.client_headers = client_headers
        scope: Any = {
            "type": "http",
            "method": "POST",
            "http_version": version,
            "headers": connection.headers,
            "client": connection.client,
            TIMEOUTS: timeouts,
            EXCHANGE: self,
        }
        self.scope = scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.keep_alive = version != "1.0" and connection.parser.should_keep_alive()
        self.waiting_for_100_continue = connection.expect_100_continue
        self.body = bytearray()
        self.chunked_encoding = None
        self.expected_content_length = 0

    def run_asgi(self, app: Any) -> Coroutine[Any, Any, None]:
        """The coroutine that answers the request: `app` handles its errors, and calls `finish`."""
        answering: Coroutine[Any, Any, None] = app(self.scope, self.receive, self.send)
        return answering

    def finish(self) -> None:
        """Called when the request is over. Closes a connection whose client has no complete response."""
        self.on_response = do_nothing  # no reference back to the connection
        if not (self.response_complete or self.disconnected):
            self.transport.close()

    async def receive(self) -> Any:
        """ASGI's, for bodies that arrive piece by piece."""
        if isinstance(self.message_event, Unheard):
            self.message_event = asyncio.Event()
            if self.body or not self.more_body:
                self.message_event.set()
        return await super().receive()

    def take_body(self) -> bytes | None:
        """The request's body; `None` if it has not arrived completely."""
        if self.more_body:
            return None
        body, self.body = bytes(self.body), bytearray()
        return body

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than it is written to."""
        return self.flow.write_paused and not self.disconnected

    async def drain(self) -> None:
        """Returns when the client has read enough, or disconnected."""
        await self.flow.drain()

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the response, chunked if it has no content length; for HTTP/1.0, the body then ends by closing.

        Raises `ValueError` for unsafe headers.
        """
        text = headers.text if isinstance(headers, HeaderLines) else _checked_lines(headers)
        self.response_started = True
        self.waiting_for_100_continue = False
        head = _start(status, tuple(self.default_headers)) + text.encode("latin-1")
        if b"\r\nconnection: close\r\n" in head:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        self.chunked_encoding = b"\r\ncontent-length: " not in head and self.scope["http_version"] != "1.0"
        self._head = head + (b"transfer-encoding: chunked\r\n\r\n" if self.chunked_encoding else b"\r\n")

    def respond(self, status: int, headers: HeaderLines, body: bytes) -> None:
        """The whole response in one write. `headers` have the content length, and nothing about the connection."""
        self.response_started = True
        self.waiting_for_100_continue = False
        if self.disconnected:
            return
        start = _start(status, tuple(self.default_headers))
        lines = headers.text.encode("latin-1")
        if self.keep_alive:
            self.transport.write(b"%b%b\r\n%b" % (start, lines, body))
        else:
            self.transport.write(b"%b%bconnection: close\r\n\r\n%b" % (start, lines, body))
        self._end()

    def write(self, data: bytes, *, last: bool) -> None:
        """A piece of the body. Writes nothing once the client has disconnected."""
        if self.disconnected:
            return
        head, self._head = self._head, b""
        if not self.chunked_encoding:
            data = head + data if head else data
        elif not data:
            data = head + b"0\r\n\r\n" if last else head
        elif last:
            data = b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(data), data)
        else:
            data = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        self.transport.write(data)
        if last:
            self._end()

    def _end(self) -> None:
        """The response is complete."""
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def pass_on(self, chunk: bytes, now: float) -> bool:
        """As `write`, with chunks that are framed already; `False` if it has to be written in another way."""
        if self.disconnected or self.flow.write_paused or self._head or not self.chunked_encoding:
            return False
        self.passed_at = now
        self.transport.write(chunk)
        return True


@lru_cache(maxsize=32)
def _start(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The first lines of a response; `headers` are those of every response, which change once a second."""
    return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])


def _checked_lines(headers: Mapping[str, str]) -> str:
    """The lines of the headers. Raises `ValueError` for unsafe ones."""
    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    raw = lines.encode("latin-1")
    if len(raw.translate(None, CONTROL_CHARACTERS)) != len(raw) - 2 * (len(headers) - 1):
        raise ValueError("control character in a response header")
    return f"{lines}\r\n"
