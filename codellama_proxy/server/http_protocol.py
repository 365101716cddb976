"""Uvicorn's HTTP/1.1 with limits on heads, silence and unread output, and JSON errors for malformed requests.

Idle and slow connections are closed only here; the request on them is told that its client disconnected. Pipelined
requests are kept apart from the one being answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.server import framing
from codellama_proxy.server.client_timers import unread_bytes
from codellama_proxy.server.framing import MAX_HEAD_BYTES
from codellama_proxy.server.half_closed import HalfClosedWatch
from codellama_proxy.server.request_reader import RequestReader
from codellama_proxy.web.connection import BODY_ROOM, ON_DISCONNECT, REFUSED

MAX_PIPELINED_BYTES = 256 << 10
"""Bytes a client may pipeline behind a request that is being answered; with more, the connection closes after that
response. Reading never pauses meanwhile, because only reading detects a disconnect."""


class LingeringTransport:
    """The transport of a request whose body is still arriving: closing waits for the rest of the body."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Protocol(RequestReader):
    """One connection."""

    _half_closed: HalfClosedWatch | None = None
    """Set once the client will send nothing more."""

    _discards = False
    """Further input is discarded: the connection closes after the current response."""

    def __init__(self, *args: Any, malformed: Callable[[str, ProxyError], None], **kwargs: Any) -> None:
        """`malformed` is called with the request id and the error of each response to a malformed request."""
        super().__init__(*args, **kwargs)
        self._malformed = malformed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._timers.await_head()

    def data_received(self, data: bytes) -> None:
        if self._discards or (self._is_answering_a_whole_request() and self._is_too_far_behind(len(data))):
            return
        self._unparsed += len(data)
        self._idle.since = None
        if not self._parse(data):
            self._refuse(framing.too_large() if self._head > MAX_HEAD_BYTES else framing.malformed())
        if self._in_head:
            self._timers.await_head()
        elif self._awaits_body_after_response():
            self._timers.await_body()
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(framing.too_large())
        if self.flow.read_paused and self._is_answering_a_whole_request():
            self.flow.resume_reading()
        cycle = self.cycle
        if cycle is not None and cycle.more_body and cycle.transport is self.transport:
            cycle.transport = LingeringTransport(self.transport, self._close_after_the_body)  # type: ignore[assignment]
            cycle.scope[BODY_ROOM] = self._room_left  # type: ignore[literal-required]  # ours, not ASGI's

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
        self._timers.input_arrived()
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
            self._timers.input_arrived()
            self._half_closed = HalfClosedWatch(
                self.transport, self._timeouts.heartbeat, lambda: self._answering
            )
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._timers.stop()
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
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._timers.has_read()

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
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._await_reading()

    def _await_reading(self) -> None:
        transport = self.transport
        self._timers.await_reading(transport.abort, lambda: unread_bytes(transport))

    def _close_after_the_body(self) -> None:
        assert self._answering is not None  # not `cycle`, which may be a request behind it
        if not self._answering.more_body:
            self.transport.close()
            return
        self._closes_after_body = True
        if self.expect_100_continue:  # it may not send a body at all: signal the end now
            self.transport.write_eof()
        self._timers.await_body()

    def _awaits_body_after_response(self) -> bool:
        """The response was sent before the body arrived; no other timeout applies."""
        return self._idle.since is None and self.cycle is not None and self.cycle.response_complete

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
