"""Opens connections to providers: DNS, IPv6 and IPv4 in parallel, TLS, and egress proxies."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from codellama_proxy.core.snapshot import Egress
from codellama_proxy.upstream.connection import Connection
from codellama_proxy.upstream.http import TransportError

DNS_SECONDS = 30.0
"""How long resolved addresses are cached."""
FALLBACK_SECONDS = 0.25
"""Delay before the next address is tried in parallel (RFC 8305, section 5)."""
MAX_PROXY_HEAD_BYTES = 16 << 10


class DialError(TransportError):
    """The connection failed, so nothing was sent."""

    reason = "connect"
    sent = False


class DialTimeoutError(DialError):
    """Connecting took too long."""

    reason = "connect_timeout"
    timed_out = True


class ProxyRefusedError(DialError):
    """The egress proxy did not open a tunnel."""

    reason = "proxy"


class Origin(NamedTuple):
    """Host, port and scheme. Requests to the same origin share connections."""

    host: str
    port: int
    tls: bool


class Proxy(NamedTuple):
    """An egress proxy, reached over plain HTTP."""

    host: str
    port: int
    authorization: str | None
    """The header's value if the configured URL has a user or a password."""

    @classmethod
    def of(cls, url: str) -> Proxy:
        parts = urlsplit(url)
        authorization = None
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return cls(parts.hostname or "", parts.port or 80, authorization)

    def connect_head(self, origin: Origin) -> bytes:
        """The request for a tunnel."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        target = f"{host}:{origin.port}".encode()
        lines = [b"CONNECT %b HTTP/1.1" % target, b"host: %b" % target]
        if self.authorization is not None:
            lines.append(b"proxy-authorization: " + self.authorization.encode())
        return b"\r\n".join([*lines, b"", b""])


class Dialer:
    """Opens connections and caches addresses. Belongs to one event loop."""

    def __init__(self, egress: Egress) -> None:
        self.proxy = Proxy.of(egress.proxy.reveal()) if egress.proxy is not None else None
        self._certificates = egress.ca_bundle.certificates if egress.ca_bundle is not None else None
        self._addresses: dict[tuple[str, int], tuple[float, list[Any]]] = {}

    async def connect(self, origin: Origin, seconds: float | None) -> Connection:
        """A new connection after its TLS handshake; `seconds` is the time limit. Raises `DialError`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._connect(origin)
        except TimeoutError:
            raise DialTimeoutError("connect_timeout") from None
        except (OSError, ssl.SSLError, UnicodeError) as error:  # UnicodeError: an invalid host name
            raise DialError(type(error).__name__) from None

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await self._socket(loop, origin)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.proxy is not None and origin.tls:
                await _open_tunnel(loop, sock, self.proxy.connect_head(origin))
            _, connection = await loop.create_connection(
                Connection,
                sock=sock,
                ssl=_tls_context(self._certificates) if origin.tls else None,
                server_hostname=origin.host if origin.tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    async def _socket(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> socket.socket:
        host, port = (origin.host, origin.port) if self.proxy is None else self.proxy[:2]
        addresses = await self._resolve(loop, host, port)
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=FALLBACK_SECONDS, interleave=1, loop=loop
            )
        except OSError:
            self._addresses.pop((host, port), None)
            raise

    async def _resolve(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        known = self._addresses.get((host, port))
        if known is not None and known[0] > loop.time():
            return known[1]
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        self._addresses[host, port] = loop.time() + DNS_SECONDS, found
        return found


@lru_cache(maxsize=8)
def _tls_context(certificates: str | None) -> ssl.SSLContext:
    """Verifies against the system's authorities (or `SSL_CERT_FILE`) and, in addition, these certificates."""
    context = ssl.create_default_context()
    if certificates is not None:
        context.load_verify_locations(cadata=certificates)
    return context


async def _open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, head: bytes) -> None:
    """Requests a tunnel from the proxy (RFC 9110, 9.3.6). Raises `ProxyRefusedError` if it is refused."""
    await loop.sock_sendall(sock, head)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):  # TLS servers wait for the client, so nothing may follow
        piece = await loop.sock_recv(sock, 4096)
        answer += piece
        if not piece or len(answer) > MAX_PROXY_HEAD_BYTES or b"\r\n\r\n" in answer[:-4]:
            raise ProxyRefusedError("proxy_answer")
    status = answer.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or not status[1].startswith(b"2"):
        raise ProxyRefusedError("proxy_refused")
