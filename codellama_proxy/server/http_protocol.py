"""Uvicorn's HTTP/1.1 with limits on heads, silence and unread output, and JSON errors for malformed requests.

Idle and slow connections are closed only here; the request on them is told that its client disconnected. Pipelined
requests are kept apart from the one being answered. Offers to upgrade the protocol are ignored: the parser stops at
them, so those heads are parsed a second time without the offer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.server import framing
from codellama_proxy.server.exchange import DirectExchange
from codellama_proxy.server.framing import MAX_HEAD_BYTES
from codellama_proxy.server.half_closed import HalfClosedWatch
from codellama_proxy.server.idle_timer import IdleTimer
from codellama_proxy.web.connection import (
    BODY_COMPLETE,
    BODY_ROOM,
    ON_DISCONNECT,
    REFUSED,
    TIMEOUTS,
    ClientTimeouts,
)

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI app."""

MAX_PIPELINED_BYTES = 256 << 10
"""Bytes a client may pipeline behind a request that is being answered; with more, the connection closes after that
response. Reading never pauses meanwhile, because only reading detects a disconnect."""

MAX_DISCARDED_BYTES = 8 << 20
"""Bytes over the largest body that are read and discarded after a refusal: a client whose connection is reset while
it sends may never read the refusal."""


class LingeringTransport:
    """The transport of a request whose body is still arriving: closing waits for the rest of the body."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = 0
    """Bytes of the head, once it is complete."""
    _in_head = False
    _unparsed = 0
    """Bytes since the last head began or ended, or its body continued: bounds endless headers, which the parser
    buffers, and bytes that follow a body."""

    _slow: asyncio.TimerHandle | None = None
    """Ends a connection whose head or body is late; set only while one is awaited."""

    _unread: asyncio.TimerHandle | None = None
    """Ends a connection whose client does not read; set only while the buffers are full."""

    _half_closed: HalfClosedWatch | None = None
    """Set once the client will send nothing more."""

    _answering: RequestResponseCycle | None = None
    """The request being answered; uvicorn's `cycle` is the latest one."""

    _offer: framing.Headers | None = None
    """The headers of a request that offers an upgrade, until its head is parsed again without the offer."""

    _behind = 0
    """Bytes received behind the request being answered."""

    _size = 0
    """Bytes of the body received."""

    _closes_after_body = False
    """The connection closes once the rest of the body has arrived."""

    _discards = False
    """Further input is discarded: the connection closes after the current response."""

    def __init__(
        self,
        *args: Any,
        timeouts: ClientTimeouts,
        max_body: Callable[[], int],
        malformed: Callable[[str, ProxyError], None],
        direct: Mapping[bytes, App],
        **kwargs: Any,
    ) -> None:
        """`malformed` is called with the request id and the error of each response to a malformed request.

        `direct` maps paths to the apps that answer a `DirectExchange` at POST. Requests of browsers, which send an
        origin, are left to the whole app.
        """
        super().__init__(*args, **kwargs)
        self._malformed = malformed
        self._timeouts = timeouts
        self._max_body = max_body
        self._direct = direct
        self._idle = IdleTimer(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._discards or (self._is_answering_a_whole_request() and self._is_too_far_behind(len(data))):
            return
        self._unparsed += len(data)
        self._idle.since = None
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(framing.too_large() if self._head > MAX_HEAD_BYTES else framing.malformed())
        if self._slow is None and self._in_head:
            self._await_head()
        elif self._awaits_body_after_response():
            self._await_rest()
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(framing.too_large())
        if self.flow.read_paused and self._is_answering_a_whole_request():
            self.flow.resume_reading()
        cycle = self.cycle
        if cycle is not None and cycle.more_body and cycle.transport is self.transport:
            cycle.transport = LingeringTransport(self.transport, self._close_after_the_body)  # type: ignore[assignment]
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
        self._behind += size
        if self._behind > MAX_PIPELINED_BYTES:
            self._end_with_this_answer()
        return self._discards

    def _end_with_this_answer(self) -> None:
        assert self._answering is not None
        self._answering.keep_alive = False
        self.pipeline.clear()
        self._head_is_complete()
        self._discards = True

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's always closes
        """Keeps the connection while whole requests are unanswered: the client may have closed its sending half only.

        HTTP/1.0 has no interim responses to probe such a client with; there it counts as a disconnect.
        """
        cycle = self._answering
        if cycle is None or not self._is_answering_a_whole_request() or cycle.scope["http_version"] != "1.1":
            return None
        if self._half_closed is None:
            if self.pipeline and self.pipeline[0][0].more_body:  # it will not be completed
                self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else cycle
            last.keep_alive = False
            self._head_is_complete()
            self._half_closed = HalfClosedWatch(
                self.transport, self._timeouts.heartbeat, lambda: self._answering
            )
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_complete()
        self._has_read()
        if self._half_closed is not None:
            self._half_closed.stop()
        self.pipeline.clear()
        cycle = self._answering
        unanswered = cycle is not None and not cycle.response_complete
        left = cycle.scope.get(ON_DISCONNECT) if cycle is not None and unanswered else None
        if cycle is not None and unanswered and cycle is not self.cycle:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        self._idle.stop()
        if callable(left):
            left()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._timeouts.send, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._has_read()

    def timeout_keep_alive_handler(self) -> None:
        """A graceful close would wait for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif not self._closes_after_body:  # then another timer is running
                self._idle.start()
        if self._unread is None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self._timeouts.send, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._behind = 0
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head = self._unparsed = self._size = 0
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unparsed = 0
        self._head_is_complete()
        self._head = framing.head_size(self.url, self.headers)
        if self._head > MAX_HEAD_BYTES:
            raise framing.BadHeadError("too large")
        method, version = self.parser.get_method(), self.parser.get_http_version()
        framing.check(method, self.url, version, self.headers)
        if self.parser.should_upgrade():
            self._offer = self.headers
            return
        if self._offer is not None:
            self.headers, self._offer = self._offer, None
        direct = self._direct.get(self.url.partition(b"?")[0]) if method == b"POST" else None
        fields = dict(self.headers)
        if direct is None or b"origin" in fields:
            self._begin_request()
        else:
            self._begin_direct(direct, fields, version)
        self.headers = []  # trailers are not headers
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # after a refusal the body could be mistaken for the next request

    def _begin_request(self) -> None:
        """Starts or queues the request as uvicorn does."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and clears these
        self.url, self.expect_100_continue = url, expects
        self.headers[:] = headers
        self.scope[TIMEOUTS] = self._timeouts  # type: ignore[literal-required]  # ours, not ASGI's
        super().on_headers_complete()

    def _begin_direct(self, app: App, fields: Mapping[bytes, bytes], version: str) -> None:
        """Starts or queues the request of a direct exchange."""
        before = self.cycle
        self.cycle = exchange = DirectExchange(self, fields, version, self._timeouts)
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, app))

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._size += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            if self._room_left() < 0:
                self.transport.close()
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unparsed = 0
        if self._offer is not None:
            return
        cycle = self.cycle
        cycle.scope[BODY_COMPLETE] = True  # type: ignore[literal-required]  # ours, not ASGI's
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        if self._closes_after_body:
            self.transport.close()
        elif cycle.response_complete:  # the end of a refused body: the connection is idle from now on
            self._head_is_complete()
            self._idle.start()

    def _room_left(self) -> int:
        return self._max_body() + MAX_DISCARDED_BYTES - self._size

    def _close_after_the_body(self) -> None:
        if not self.cycle.more_body:
            self.transport.close()
            return
        self._closes_after_body = True
        if self.expect_100_continue:  # it may not send a body at all: signal the end now
            self.transport.write_eof()
        self._await_rest()

    def _awaits_body_after_response(self) -> bool:
        """The response was sent before the body arrived; no other timeout applies."""
        return self._idle.since is None and self.cycle is not None and self.cycle.response_complete

    def _await_head(self) -> None:
        self._slow = self.loop.call_later(self._timeouts.head, self._too_slow)

    def _await_rest(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self._timeouts.body, self._too_slow)

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
        message = f"The request's headers did not arrive within {self._timeouts.head:g} seconds."
        self._refuse(ProxyError("request_timeout", message))

    def _refuse(self, error: ProxyError) -> None:
        if self._awaits_body_after_response() and not self._in_head:  # already answered
            self.transport.close()
            return
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # malformed bytes behind a request do not affect its response
                self._end_with_this_answer()
                return
            if cycle.response_started:  # the response has begun: only closing is left
                self.transport.close()
                return
        request_id = new_request_id(time.time())
        self.transport.write(framing.error_response(error, request_id))
        self.transport.close()
        if cycle is None or cycle.response_complete:
            self._malformed(request_id, error)
        else:  # the request is logged by its endpoint
            cycle.scope[REFUSED] = error  # type: ignore[literal-required]  # ours, not ASGI's
