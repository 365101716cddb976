"""Reads the requests of a connection, and starts or queues each as soon as its head is complete.

Offers to upgrade the protocol are ignored: the parser stops at them, so those heads are parsed a second time without
the offer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from codellama_proxy.server import framing
from codellama_proxy.server.client_timers import ClientTimers
from codellama_proxy.server.exchange import DirectExchange
from codellama_proxy.server.framing import MAX_HEAD_BYTES
from codellama_proxy.server.http10 import App, until_close
from codellama_proxy.server.idle_timer import IdleTimer
from codellama_proxy.server.known_head import MAX_KNOWN_BYTES, KnownHead
from codellama_proxy.web.client_headers import ClientHeaders
from codellama_proxy.web.connection import BODY_COMPLETE, TIMEOUTS, ClientTimeouts

MAX_DISCARDED_BYTES = 8 << 20
"""Bytes over the largest body that are read and discarded after a refusal: a client whose connection is reset while
it sends may never read the refusal."""


class RequestReader(HttpToolsProtocol):
    """Uvicorn's protocol with our limits on what is read; `Protocol` adds the rest."""

    _head = 0
    """Bytes of the head, once it is complete."""
    _in_head = False
    """A head is being received, or was refused."""
    _unparsed = 0
    """Bytes since the last head began or ended, or its body continued: bounds endless headers, which the parser
    buffers, and bytes that follow a body."""

    _answering: RequestResponseCycle | None = None
    """The request being answered; uvicorn's `cycle` is the latest one."""

    _offer: framing.Headers | None = None
    """The headers of a request that offers an upgrade, until its head is parsed again without the offer."""

    _known: KnownHead | None = None
    """The head of the latest direct request, if it may be repeated."""

    _behind = 0
    """Bytes received behind the request being answered."""

    _size = 0
    """Bytes of the body received."""

    _closes_after_body = False
    """The connection closes once the rest of the body has arrived."""

    def __init__(
        self,
        *args: Any,
        timeouts: ClientTimeouts,
        max_body: Callable[[], int],
        direct: Mapping[bytes, App],
        **kwargs: Any,
    ) -> None:
        """`direct` maps paths to the apps that answer a `DirectExchange` at POST. Requests of browsers, which send an
        origin, are left to the whole app.
        """
        super().__init__(*args, **kwargs)
        self._timeouts = timeouts
        self._max_body = max_body
        self._direct = direct
        self._idle = IdleTimer(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._timers = ClientTimers(self.loop, timeouts, self._too_slow)

    def _parse(self, data: bytes) -> bool:
        """Reads further bytes; returns `False` for malformed ones, and for a head that is refused."""
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._parse_past_offer(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError:
            return False
        return True

    def _parse_past_offer(self, rest: memoryview) -> None:
        """Parses the head that offers an upgrade again without the offer, then what follows it."""
        while True:
            assert self._offer is not None
            parser = self.parser
            head = framing.without_offer(
                parser.get_method(), self.url, parser.get_http_version(), self._offer
            )
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        self._behind = 0
        if cycle.scope["http_version"] == "1.0":
            app = until_close(cycle, app)
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head = self._unparsed = self._size = 0
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        self._timers.input_arrived()
        start = self.parser.get_method(), self.url, self.parser.get_http_version()
        known = self._known
        if known is not None and self._offer is None and known.is_like(start, self.headers):
            self._head = known.size
            self._begin_direct(self._direct[known.path], known.client_headers, start[2])
        else:
            self._read_head(*start)
        self._in_head = False
        if self._offer is not None:
            return
        self.headers = []  # trailers are not headers
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # after a refusal the body could be mistaken for the next request

    def _read_head(self, method: bytes, target: bytes, version: str) -> None:
        """Checks a head that is not known, and starts or queues its request unless it offers an upgrade."""
        headers = self.headers
        self._head = size = framing.head_size(target, headers)
        if size > MAX_HEAD_BYTES:
            raise framing.BadHeadError("too large")
        framing.check(method, target, version, headers)
        if self.parser.should_upgrade():
            self._offer = headers
            return
        offered = self._offer is not None
        if self._offer is not None:
            self.headers, self._offer = self._offer, None
        path = target.partition(b"?")[0]
        direct = self._direct.get(path) if method == b"POST" else None
        if direct is None or any(name == b"origin" for name, _ in headers):
            self._begin_request()
            return
        head = KnownHead((method, target, version), path, self.headers, size)
        self._known = None if offered or size > MAX_KNOWN_BYTES else head
        self._begin_direct(direct, head.client_headers, version)

    def _begin_request(self) -> None:
        """Starts or queues the request as uvicorn does."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and clears these
        self.url, self.expect_100_continue = url, expects
        self.headers[:] = headers
        self.scope[TIMEOUTS] = self._timeouts  # type: ignore[literal-required]  # ours, not ASGI's
        super().on_headers_complete()

    def _begin_direct(self, app: App, client_headers: ClientHeaders, version: str) -> None:
        """Starts or queues the request of a direct exchange."""
        before = self.cycle
        self.cycle = exchange = DirectExchange(self, client_headers, version, self._timeouts)
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
            self._timers.input_arrived()
            self._idle.start()

    def _room_left(self) -> int:
        return self._max_body() + MAX_DISCARDED_BYTES - self._size

    def _too_slow(self) -> None:
        """Called when a head or body is late."""
        raise NotImplementedError
