"""HTTP to providers: httpx2's transport interface over our own connections.

httpx2's interface lets tests replace the network. Raw bytes only: no decompression, no redirects, no cookies, no
proxies from the environment. A request is written once and never resent, so an attempt is at most one request to the
upstream. Every failure is raised as an httpx2 error whose text is a short reason without addresses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import lru_cache

import httpx2

from codellama_proxy.core.snapshot import Egress
from codellama_proxy.upstream.connection import Connection, ConnectionLostError, ExchangeError, Sink
from codellama_proxy.upstream.dial import (
    Dialer,
    DialError,
    DialTimeoutError,
    Origin,
    Proxy,
    ProxyRefusedError,
)

DIRECT = Egress()
IDLE_SECONDS = 15.0
"""How long an idle connection is kept: less than providers keep them."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


class HttpTransport(httpx2.AsyncBaseTransport):
    """The connections of one deployment through one egress. Belongs to one event loop."""

    def __init__(self, egress: Egress = DIRECT) -> None:
        self._dialer = Dialer(egress)
        self._idle: dict[Origin, deque[Connection]] = {}
        """By origin; the most recently used connection is on the right."""
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body as a stream. Raises `httpx2.TransportError`."""
        body = await _whole_body(request)
        origin, head = _request_head(
            request.method, request.url, tuple(request.headers.raw), self._dialer.proxy
        )
        connection = await self._take_idle(origin)
        reused = connection is not None
        if connection is None:
            connection = await self._dial(origin, request.extensions.get("timeout", {}).get("connect"))
        try:
            await connection.send(b"%bcontent-length: %d\r\n\r\n" % (head, len(body)), body)
        except ExchangeError as error:
            if reused:
                self._drop_idle(origin)  # an upstream that restarted has closed the others as well
            raise _translated(error) from None
        except BaseException:
            connection.close()
            raise
        stream = ConnectionBody(self, origin, connection)
        response = httpx2.Response(connection.status, headers=connection.headers, stream=stream)
        response.headers.encoding = "latin-1"
        return response

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

    async def _take_idle(self, origin: Origin) -> Connection | None:
        """The most recently used idle connection; `None` if there is none or the upstream has closed it."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        connection = idle.pop()
        if (
            connection.has_unread_input()
        ):  # let the event loop read it: a TLS ticket is harmless, an end is not
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if connection.is_reusable():
            return connection
        connection.close()
        self._drop_idle(origin)
        return None

    def _drop_idle(self, origin: Origin) -> None:
        for connection in self._idle.pop(origin, ()):
            connection.close()

    async def _dial(self, origin: Origin, seconds: float | None) -> Connection:
        try:
            return await self._dialer.connect(origin, seconds)
        except DialTimeoutError as error:
            raise httpx2.ConnectTimeout(str(error)) from None
        except ProxyRefusedError as error:
            raise httpx2.ProxyError(str(error)) from None
        except DialError as error:
            raise httpx2.ConnectError(str(error)) from None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and idle[0].idle_since <= oldest:
                idle.popleft().close()
            if not idle:
                del self._idle[origin]
        self._sweep_timer = loop.call_later(IDLE_SECONDS / 3, self._sweep) if self._idle else None


class ConnectionBody(httpx2.AsyncByteStream):
    """A body as it arrives. Its own iterator, so that nothing of it outlives an early exit."""

    def __init__(self, transport: HttpTransport, origin: Origin, connection: Connection) -> None:
        self._transport = transport
        self._origin = origin
        self._connection: Connection | None = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            piece = await self._connection.read()
        except ExchangeError as error:
            raise _translated(error) from None
        if not piece:
            raise StopAsyncIteration
        return piece

    async def pour(self, sink: Sink) -> bool:
        """`Connection.pour`. Raises `httpx2.TransportError`, and what `sink` raises."""
        if self._connection is None:
            return False
        try:
            return await self._connection.pour(sink)
        except ExchangeError as error:
            raise _translated(error) from None

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.give_back(self._origin, connection)


def _translated(error: ExchangeError) -> httpx2.TransportError:
    if isinstance(error, ConnectionLostError):
        return httpx2.ReadError(str(error))
    return httpx2.RemoteProtocolError(str(error))


async def _whole_body(request: httpx2.Request) -> bytes:
    """The request's body, usually a single piece."""
    if isinstance(request.stream, httpx2.ByteStream):
        return b"".join(request.stream)
    return await request.aread()


@lru_cache(maxsize=1024)
def _request_head(
    method: str, url: httpx2.URL, headers: RawHeaders, proxy: Proxy | None
) -> tuple[Origin, bytes]:
    """The origin, and the request head without the content length; cached because a deployment's are the same."""
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx2.UnsupportedProtocol("address")
    tls = url.scheme == "https"
    origin = Origin(url.raw_host.decode("ascii"), url.port or (443 if tls else 80), tls)
    target = url.raw_path
    if proxy is not None and not tls:  # without a tunnel the proxy reads the request itself (RFC 9112, 3.2.2)
        target = b"http://%b%b" % (url.netloc, target)
        if proxy.authorization is not None:
            headers = (*headers, (b"proxy-authorization", proxy.authorization))
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    if not any(name.lower() == b"host" for name, _ in headers):
        lines.append(b"host: %b\r\n" % url.netloc)
    lines += [b"%b: %b\r\n" % field for field in headers if field[0].lower() not in FRAMING]
    return origin, b"".join(lines)


FRAMING = (b"content-length", b"transfer-encoding")
