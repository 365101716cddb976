"""HTTP to providers over our own connections.

A request is written once and never resent, so an attempt is at most one request to the upstream.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, urlsplit

from codellama_proxy import __version__
from codellama_proxy.core.snapshot import Egress
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.upstream.connection import FRAMING, Connection, ExchangeError
from codellama_proxy.upstream.dial import Dialer, Origin, Proxy
from codellama_proxy.upstream.http import AddressError, Response, ResponseBody, Sink

DIRECT = Egress()
DEFAULT_HEADERS = {"user-agent": f"codellama-proxy/{__version__}", "accept-encoding": "identity"}
"""Sent with every request that does not set them."""
IDLE_SECONDS = 15.0
"""How long an idle connection is kept: less than providers keep them."""

_HOST = re.compile(r"[A-Za-z0-9._~%:-]+")
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=~%|[]"
"""Characters of a path and query that are sent as they are, besides letters, digits and `_.-`."""


class HttpTransport:
    """The connections of one deployment through one egress. Belongs to one event loop."""

    def __init__(self, egress: Egress = DIRECT) -> None:
        self._dialer = Dialer(egress)
        self._idle: dict[Origin, deque[Connection]] = {}
        """By origin; the most recently used connection is on the right."""
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._latest: tuple[str, Mapping[str, str], str, tuple[Origin, bytes]] | None = None
        """URL, headers and method of the last request, and what they gave: most requests have the same objects."""

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        """The response, when its head has arrived. Raises `TransportError`."""
        body = request.body
        origin, head = self._head_of(request)
        idle = self._idle.get(origin)
        connection = idle.pop() if idle else None  # the most recently used
        if connection is not None and not connection.is_reusable():
            connection = await self._revived(origin, connection)
        reused = connection is not None
        if connection is None:
            connection = await self._dialer.connect(origin, connect_seconds)
        try:
            await connection.send(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body)
        except ExchangeError:
            if reused:
                self._drop_idle(origin)  # an upstream that restarted has closed the others as well
            raise
        except BaseException:
            connection.close()
            raise
        return Response(connection.status, connection.headers, ConnectionBody(self, origin, connection))

    def _head_of(self, request: HttpRequest) -> tuple[Origin, bytes]:
        """The origin, and the head without the content length. Raises `AddressError`."""
        url, headers, _, method, _ = request
        latest = self._latest
        if latest is not None and latest[0] is url and latest[1] is headers and latest[2] == method:
            return latest[3]
        found = _request_head(method, url, tuple(headers.items()), self._dialer.proxy)
        self._latest = url, headers, method, found
        return found

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keeps the connection for the next request if its answer was read to the end, else closes it."""
        if connection.release():
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, deque()).append(connection)
            if self._sweep_timer is None:
                self._sweep_timer = loop.call_later(IDLE_SECONDS, self._sweep)

    async def aclose(self) -> None:
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for origin in list(self._idle):
            self._drop_idle(origin)

    async def _revived(self, origin: Origin, connection: Connection) -> Connection | None:
        """The connection once the event loop has read what has arrived; `None` if the upstream has closed it."""
        await asyncio.sleep(0)  # a TLS ticket is harmless, an end is not
        await asyncio.sleep(0)
        if connection.is_reusable():
            return connection
        connection.close()
        self._drop_idle(origin)
        return None

    def _drop_idle(self, origin: Origin) -> None:
        for connection in self._idle.pop(origin, ()):
            connection.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and idle[0].idle_since <= oldest:
                idle.popleft().close()
            if not idle:
                del self._idle[origin]
        self._sweep_timer = loop.call_later(IDLE_SECONDS / 3, self._sweep) if self._idle else None


class ConnectionBody(ResponseBody):
    """The body of the response on a connection, which it returns to its transport."""

    __slots__ = ("_connection", "_origin", "_transport")

    def __init__(self, transport: HttpTransport, origin: Origin, connection: Connection) -> None:
        self._transport = transport
        self._origin = origin
        self._connection: Connection | None = connection

    async def __anext__(self) -> bytes:
        piece = await self._connection.read() if self._connection is not None else b""
        if not piece:
            raise StopAsyncIteration
        return piece

    def arrived(self) -> bytes | None:
        connection = self._connection
        whole = None if connection is None else connection.whole_body()
        if connection is not None and whole is not None:
            self._connection = None
            self._transport.give_back(self._origin, connection)
        return whole

    def is_read(self) -> bool:
        return self._connection is None or self._connection.is_read()

    async def pour(self, sink: Sink) -> bool:
        return self._connection is not None and await self._connection.pour(sink)

    def ends_chunk(self, piece: bytes) -> bool:
        return self._connection is not None and self._connection.ends_chunk(piece)

    def pass_on(self, relay: Sink) -> None:
        assert self._connection is not None
        self._connection.pass_on(relay)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.give_back(self._origin, connection)


@lru_cache(maxsize=1024)
def _request_head(
    method: str, url: str, headers: tuple[tuple[str, str], ...], proxy: Proxy | None
) -> tuple[Origin, bytes]:
    """The origin, and the request head without the content length; cached because a deployment's are the same.

    Raises `AddressError`.
    """
    origin, host, target = _address(url)
    fields = {**DEFAULT_HEADERS, **dict(headers)}
    if proxy is not None and not origin.tls:  # without a tunnel the proxy reads the request itself
        target = f"http://{host}{target}"  # RFC 9112, 3.2.2
        if proxy.authorization is not None:
            fields["proxy-authorization"] = proxy.authorization
    fields = {"host": host, **fields}
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in fields.items() if name.lower() not in FRAMING]
    return origin, "".join(lines).encode()


def _address(url: str) -> tuple[Origin, str, str]:
    """The origin, the value of `host`, and the path with the query. Raises `AddressError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise AddressError("url") from None
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise AddressError("url")
    tls = parts.scheme == "https"
    usual = 443 if tls else 80
    shown = f"[{host}]" if ":" in host else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return (
        Origin(host, port or usual, tls),
        shown if port in (None, usual) else f"{shown}:{port}",
        quote(target, safe=_TARGET_CHARACTERS),
    )
