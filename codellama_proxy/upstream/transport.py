"""The wire under the upstream edge: httpx2's transport interface, carried by aiohttp.

httpx2 is the interface (and `MockTransport` the place where tests plug in a fake internet); aiohttp moves the
bytes, which it does three times faster. Raw bytes only: no decompression, no redirects, no cookies, no proxies
from the environment. A request is written once, so that an attempt is one request for the upstream, too. Every aiohttp
error leaves here as one of httpx2's (`ERRORS`).
"""

from __future__ import annotations

import asyncio
import base64
import select
import ssl
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import aiohttp
import httpx2
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from codellama_proxy.core.snapshot import Egress, Mock
from codellama_proxy.providers import mock

DIRECT = Egress()
KEEPALIVE = 15.0  # seconds an idle connection is kept: below what providers keep theirs

# The first that matches wins, so subclasses come before their bases.
ERRORS: tuple[tuple[type[BaseException], type[httpx2.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ClientSSLError, httpx2.ConnectError),
    (ssl.SSLError, httpx2.ConnectError),
    (aiohttp.ServerFingerprintMismatch, httpx2.ConnectError),
    (aiohttp.InvalidURL, httpx2.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx2.UnsupportedProtocol),
    (aiohttp.ClientHttpProxyError, httpx2.ProxyError),
    (aiohttp.ClientPayloadError, httpx2.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx2.RemoteProtocolError),
    (aiohttp.ServerDisconnectedError, httpx2.RemoteProtocolError),
    (aiohttp.ClientError, httpx2.ReadError),
    (TimeoutError, httpx2.ReadTimeout),
    (OSError, httpx2.ReadError),
)


def translated(error: BaseException) -> httpx2.TransportError:
    """The httpx2 error that says the same. Its text is only the class name: messages may hold addresses."""
    name = type(error).__name__
    return next((to(name) for of, to in ERRORS if isinstance(error, of)), httpx2.TransportError(name))


class _Sending:
    """One request on its way to the kernel."""

    __slots__ = ("fresh", "reused", "taken")

    def __init__(self, *, fresh: bool) -> None:
        self.fresh = fresh
        """It must not use a connection that has been idle."""
        self.reused = False
        """It got a connection that had been idle."""
        self.taken = True
        """The kernel may have taken some of it. `False` only where that is known not to be so."""


_sending: ContextVar[_Sending] = ContextVar("sending")


class _Connector(aiohttp.TCPConnector):
    """Reuses a connection only while nothing came on it unasked and its other end has not closed it."""

    async def _get(self, key: Any, traces: Any) -> Connection | None:
        sending = _sending.get()
        if sending.fresh or (found := await super()._get(key, traces)) is None:
            return None
        if await _usable(found):
            sending.reused = True
            return found
        found.close()
        return None  # the others may have been closed with it

    def drop_idle(self) -> None:
        """Closes the connections that are not in use: one of them turned out dead after it was written to."""
        for idle in self._conns.values():
            for protocol, _ in idle:
                protocol.close()
        self._conns.clear()


class _Request(aiohttp.ClientRequest):
    """Looks at an idle connection once more at the moment its first byte would be written."""

    async def write_bytes(self, writer: Any, conn: Connection, content_length: int | None = None) -> None:
        sending = _sending.get()
        if sending.reused and not await _usable(conn):
            sending.taken = False
            if conn.protocol is not None:
                conn.protocol.set_exception(aiohttp.ClientConnectionResetError("closed while idle"))
            return
        await super().write_bytes(writer, conn, content_length)


async def _usable(idle: Connection) -> bool:
    """Whether a request may be written to it. What came meanwhile (TLS tickets, an end) is read first."""
    if not _stands(idle):
        return False
    if _waits(idle.transport) is not None:
        for _ in range(2):
            await asyncio.sleep(0)
    return _stands(idle) and _waits(idle.transport) in (None, select.POLLIN)


def _stands(idle: Connection) -> bool:
    protocol, transport = idle.protocol, idle.transport
    if protocol is None or transport is None or transport.is_closing():
        return False
    return not protocol.should_close


def _waits(transport: asyncio.Transport | None) -> int | None:
    """What the kernel has to say about an idle connection: `None`, or the bits of `poll`."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return None
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
    found = poll.poll(0)
    return found[0][1] if found else None


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """One pool of connections, on one way out. Must be created in a running event loop."""

    def __init__(self, egress: Egress = DIRECT) -> None:
        self._proxy, self._for_proxy = _proxy_of(egress)
        trust = _trust(egress.ca_bundle.certificates) if egress.ca_bundle is not None else True
        self._connector = _Connector(limit=0, ttl_dns_cache=30, keepalive_timeout=KEEPALIVE, ssl=trust)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=8190,
            max_field_size=16380,
        )
        # aiohttp sends a GET again when its connection breaks; an attempt is one request.
        self._session._retry_connection = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await _whole(request)
        headers = _aiohttp_headers(tuple(request.headers.raw))
        try:
            response = await self._sent_once(request, body, headers)
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise translated(error) from error
        made = httpx2.Response(
            response.status, headers=list(response.raw_headers), stream=_AiohttpStream(response)
        )
        made.headers.encoding = "latin-1"
        return made

    async def _sent_once(
        self, request: httpx2.Request, body: bytes, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        """The upstream sees the request once at most: only one that the kernel has not taken is sent anew."""
        sending = _Sending(fresh=False)
        _sending.set(sending)
        try:
            return await self._send(request, body, headers)
        except (aiohttp.ClientError, OSError):
            if sending.taken:
                if sending.reused:
                    self._connector.drop_idle()
                raise
        _sending.set(_Sending(fresh=True))
        return await self._send(request, body, headers)

    async def _send(
        self, request: httpx2.Request, body: bytes, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        connect = request.extensions.get("timeout", {}).get("connect")
        if self._for_proxy and request.url.scheme == "http":  # without a tunnel it reads the request itself
            headers = CIMultiDict(headers, **self._for_proxy)
        return await self._session.request(
            request.method,
            URL(str(request.url), encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_headers=self._for_proxy or None,
            timeout=_within(connect),
        )

    async def aclose(self) -> None:
        await self._session.close()


def _proxy_of(egress: Egress) -> tuple[URL | None, dict[str, str]]:
    """Its address, and the header with the user and password that were part of it."""
    if egress.proxy is None:
        return None, {}
    url = URL(egress.proxy.reveal())
    if not (url.user or url.password):
        return url, {}
    credentials = base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
    return url.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"}


@lru_cache(maxsize=8)
def _trust(certificates: str) -> ssl.SSLContext:
    """The system's certificates and these."""
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=certificates)
    return context


async def _whole(request: httpx2.Request) -> bytes:
    """Its body, which nearly always is one piece."""
    if isinstance(request.stream, httpx2.ByteStream):
        return b"".join(request.stream)
    return await request.aread()


@lru_cache(maxsize=64)
def _within(connect: float | None) -> aiohttp.ClientTimeout:
    """Only the connection is bounded here: `upstream` bounds the rest."""
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect)


@lru_cache(maxsize=1024)
def _aiohttp_headers(raw: tuple[tuple[bytes, bytes], ...]) -> CIMultiDict[str]:
    """The same headers on every request of a deployment: converted once. Nobody changes them."""
    return CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


class _AiohttpStream(httpx2.AsyncByteStream):
    """The body as it arrives. Its own iterator, so that nothing of it outlives an early exit."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._response.content.at_eof():
            raise StopAsyncIteration
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise translated(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        # A connection whose body was read to its end is given back; any other is of no more use.
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class MockTransport(httpx2.AsyncBaseTransport):
    """Plays the built-in mock's scripts: same interface, no network."""

    def __init__(self, behaviour: Mock) -> None:
        self._behaviour = behaviour

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        played = mock.script(await request.aread(), self._behaviour)
        return httpx2.Response(played.status, headers=dict(played.headers), stream=_MockStream(played))


class _MockStream(httpx2.AsyncByteStream):
    def __init__(self, played: mock.Script) -> None:
        self._pieces = iter(played.pieces)
        self._cut = played.cut

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        delay, piece = next(self._pieces, (0.0, b""))
        # Always lets others run: a long answer without delays must not hold the event loop.
        await asyncio.sleep(delay)
        if piece:
            return piece
        if self._cut:
            raise httpx2.RemoteProtocolError("the mock cut its answer")
        raise StopAsyncIteration
