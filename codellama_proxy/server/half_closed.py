"""Watches a client that closed its sending half: whether it still reads, or closed entirely.

One that closed entirely resets the connection when it is sent something, so something is sent at once and then at
each heartbeat.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from codellama_proxy.web.connection import ON_HALF_CLOSE

CLOSED_CHECK_SECONDS = 0.1
"""Between checks whether the connection has been reset."""


class HalfClosedWatch:
    """Runs until `stop`, or until the transport closes. Aborts a transport that was reset."""

    def __init__(
        self,
        transport: asyncio.Transport,
        heartbeat: float,
        answering: Callable[[], RequestResponseCycle | None],
    ) -> None:
        """`heartbeat`: seconds between probes; `answering`: the request being answered."""
        self._transport = transport
        self._heartbeat = heartbeat
        self._answering = answering
        self._loop = asyncio.get_running_loop()
        self._probe()
        self._next = self._loop.call_later(CLOSED_CHECK_SECONDS, self._check)

    def stop(self) -> None:
        self._next.cancel()

    def _probe(self) -> None:
        """Sends what an open client ignores: a comment in a stream, an interim response before any response."""
        self._probed_at = self._loop.time()
        cycle = self._answering()
        assert cycle is not None
        comment = cycle.scope.get(ON_HALF_CLOSE)
        if callable(comment):
            comment()
        elif not cycle.response_started:
            self._transport.write(STATUS_LINE[100] + b"\r\n")

    def _check(self) -> None:
        if self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if self._loop.time() - self._probed_at >= self._heartbeat:
            self._probe()
        self._next = self._loop.call_later(CLOSED_CHECK_SECONDS, self._check)
