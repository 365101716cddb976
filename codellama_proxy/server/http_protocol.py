"""Uvicorn's HTTP/1.1, with bounds on heads, on silence and on what is left unread, and our error form for what never
becomes a request.

A connection that is waited for in vain is ended here and nowhere else: whoever answers on it learns that its client
left. Requests that are pipelined behind another are kept apart from the one being answered. Offers to speak another
protocol are ignored: the parser stops at them, so their heads are parsed a second time without the offer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.gateway.pipeline import request_id as new_request_id
from codellama_proxy.server import framing
from codellama_proxy.web.connection import (
    BODY_COMPLETE,
    BODY_ROOM,
    ON_DISCONNECT,
    REFUSED,
    TIMEOUTS,
    ClientTimeouts,
)

MAX_HEAD = 64 << 10
"""Bytes of a request's target and headers together."""

MAX_BEHIND = 256 << 10
"""Bytes that may come behind a request before it is answered: a client that sends more has its connection closed
after that answer. Reading never pauses meanwhile, because only reading tells that a client left."""

NO_HTTP = "The bytes received are not a valid HTTP/1.1 request."


MAX_OVER = 8 << 20
"""Bytes over the largest body that are read and thrown away when its request has been refused: a client that finds
its connection reset while it sends may never read the refusal."""


class HeadTooLargeError(ValueError):
    """Raised inside the parser's callbacks, to stop it."""


class Lingering:
    """The transport as a request sees it whose body is still coming: closing waits for the rest of the body."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = 0
    """Bytes of the head, once it is there."""
    _in_head = False
    _unparsed = 0
    """Bytes that came since the last head began, or ended, or its body went on: the parser keeps an endless header to
    itself, and what follows a body is nobody's."""

    _slow: asyncio.TimerHandle | None = None
    """Ends a connection whose head does not get complete: runs only while one is awaited."""

    _unread: asyncio.TimerHandle | None = None
    """Ends a connection whose client does not read: runs only while the buffers are full."""

    _answering: RequestResponseCycle | None = None
    """The request being answered; uvicorn's `cycle` is the one that arrived last."""

    _offer: framing.Headers | None = None
    """The headers of a request that offers another protocol, until its head has been parsed without the offer."""

    _behind = 0
    """Bytes that came behind the request being answered."""

    _size = 0
    """Bytes of the body that have come."""

    _lingers = False
    """The connection is closed as soon as the rest of the body has come."""

    _deaf = False
    """What still comes is thrown away: the connection ends with the answer being made."""

    def __init__(
        self,
        *args: Any,
        patience: ClientTimeouts,
        max_body: Callable[[], int],
        malformed: Callable[[str, ProxyError], None],
        **kwargs: Any,
    ) -> None:
        """`malformed` is told the id and the error of each answer to bytes that were no request."""
        super().__init__(*args, **kwargs)
        self._malformed = malformed
        self._patience = patience
        self._max_body = max_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._is_too_far_behind(len(data)):
            return
        self._unparsed += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(_too_large() if self._head > MAX_HEAD else ProxyError("invalid_value", NO_HTTP))
        if self._slow is None and self._in_head:
            self._await_head()
        elif self._is_owed_a_body():
            self._await_rest()
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self._refuse(_too_large())
        if self._is_answering_a_whole_request():
            self.flow.resume_reading()
        cycle = self.cycle
        if cycle is not None and cycle.more_body and cycle.transport is self.transport:
            cycle.transport = Lingering(self.transport, self._close_after_the_body)  # type: ignore[assignment]
            cycle.scope[BODY_ROOM] = self._room_left  # type: ignore[literal-required]  # ours, not ASGI's

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            assert self._offer is not None
            head = framing.without_offer(self.parser.get_method(), self.url, self._offer)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            self.parser.feed_data(head)

    def _is_answering_a_whole_request(self) -> bool:
        cycle = self._answering
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _is_too_far_behind(self, size: int) -> bool:
        if not self._is_answering_a_whole_request():
            return False
        self._behind += size
        if self._behind > MAX_BEHIND:
            self._end_with_this_answer()
        return self._deaf

    def _end_with_this_answer(self) -> None:
        assert self._answering is not None
        self._answering.keep_alive = False
        self.pipeline.clear()
        self._head_is_complete()
        self._deaf = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_complete()
        self._has_read()
        self.pipeline.clear()
        cycle = self._answering
        unanswered = cycle is not None and not cycle.response_complete
        left = cycle.scope.get(ON_DISCONNECT) if cycle is not None and unanswered else None
        if cycle is not None and unanswered and cycle is not self.cycle:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        if callable(left):
            left()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._patience.send, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_read()

    def timeout_keep_alive_handler(self) -> None:
        """Closing politely would wait for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._lingers:
            self._unset_keepalive_if_required()  # another timer is running
        if self._unread is None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self._patience.send, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._behind = 0
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TIMEOUTS] = self._patience  # type: ignore[literal-required]  # ours, not ASGI's
        self._head = self._unparsed = self._size = 0
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unparsed = 0
        self._head_is_complete()
        self._head = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if self._head > MAX_HEAD:
            raise HeadTooLargeError
        version = self.parser.get_http_version()
        framing.check(self.parser.get_method(), self.url, version, self.headers)
        if self.parser.should_upgrade():
            self._offer = self.headers
            return
        if self._offer is not None:
            self.headers[:], self._offer = self._offer, None
        super().on_headers_complete()
        self.headers = []  # trailers are no headers
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # if we refuse, nobody can tell the body from the next request

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)
        self._size += len(body)
        if self.cycle.response_complete and self._room_left() < 0:
            self.transport.close()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if self._offer is not None:
            return
        super().on_message_complete()
        self.scope[BODY_COMPLETE] = True  # type: ignore[literal-required]  # ours, not ASGI's
        if self._lingers:
            self.transport.close()
            return
        if self.cycle.response_complete:  # the rest of a refused body: the connection is idle only now
            self._head_is_complete()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _room_left(self) -> int:
        return self._max_body() + MAX_OVER - self._size

    def _close_after_the_body(self) -> None:
        if not self.cycle.more_body:
            self.transport.close()
            return
        self._lingers = True
        if self.expect_100_continue:  # it may not send any body: it can see at once that this is the end
            self.transport.write_eof()
        self._await_rest()

    def _is_owed_a_body(self) -> bool:
        """The answer went out before the body had come, and nothing else bounds how long that may take."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.timeout_keep_alive_task is None

    def _await_head(self) -> None:
        self._slow = self.loop.call_later(self._patience.head, self._too_slow)

    def _await_rest(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self._patience.body, self._too_slow)

    def _head_is_complete(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _has_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        if self.transport.is_closing():
            return
        message = f"The request's headers did not arrive within {self._patience.head:g} seconds."
        self._refuse(ProxyError("request_timeout", message))

    def _refuse(self, error: ProxyError) -> None:
        if self._is_owed_a_body() and not self._in_head:  # it has its answer
            self.transport.close()
            return
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # what comes behind a request does not spoil its answer
                self._end_with_this_answer()
                return
            if cycle.response_started:  # bytes that spoil it after its answer has begun end the connection
                self.transport.close()
                return
        request_id = new_request_id(time.time())
        self.transport.write(_answer(error, request_id))
        self.transport.close()
        if cycle is None or cycle.response_complete:
            self._malformed(request_id, error)
        else:  # its request leaves a line
            cycle.scope[REFUSED] = error  # type: ignore[literal-required]  # ours, not ASGI's


def _too_large() -> ProxyError:
    return ProxyError("headers_too_large", f"The request's headers are larger than {MAX_HEAD} bytes.")


def _answer(error: ProxyError, request_id: str) -> bytes:
    body = error.body()
    headers = {
        **error.wire_headers(),
        "x-request-id": request_id,
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
