"""Uvicorn's HTTP/1.1, with a bound on heads and our error form for what never becomes a request."""

from __future__ import annotations

import asyncio
import secrets

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from codellama_proxy.errors import ProxyError

MAX_HEAD = 64 << 10
"""Bytes of a request's target and headers together."""


LEFT = "codellama_proxy.left"
"""In a request's scope: what to call when its client leaves before it has its answer. Quicker than a task that waits
for `receive` to say so."""

HEAD_TIMEOUT = 10.0
"""Seconds for a request's head to arrive, from the connection's start or from its own first byte."""

NO_HTTP = "The bytes received are not a valid HTTP/1.1 request."


class BadHost(ValueError):  # noqa: N818 - it says what happened
    """A request without a host, or with two."""


class HeadTooLarge(ValueError):  # noqa: N818 - it says what happened
    """Raised inside the parser's callbacks, to stop it."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = 0
    """Bytes of the head so far, as the parser hands them out."""
    _in_head = False
    _unparsed = 0
    """Bytes of a head that came without ending it: the parser keeps an endless header to itself."""

    _slow: asyncio.TimerHandle | None = None
    """Ends a connection whose head does not get complete: runs only while one is awaited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own type
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if self._in_head and self._slow is None:
            self._await_head()
        if not (was_in_head and self._in_head):
            self._unparsed = 0
            return
        self._unparsed += len(data)
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self._refuse(_too_large())

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_complete()
        unanswered = self.cycle is not None and not self.cycle.response_complete
        super().connection_lost(exc)
        left = self.cycle.scope.get(LEFT) if unanswered else None
        if callable(left):
            left()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_is_complete()
        if sum(1 for name, _ in self.headers if name == b"host") != 1:
            raise BadHost
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._slow = self.loop.call_later(HEAD_TIMEOUT, self._too_slow)

    def _head_is_complete(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            message = f"The request's headers did not arrive within {HEAD_TIMEOUT:g} seconds."
            self._refuse(ProxyError("request_timeout", message))

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's one answer to bytes that are no HTTP."""
        self._refuse(_too_large() if self._head > MAX_HEAD else ProxyError("invalid_value", NO_HTTP))

    def _grow(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise HeadTooLarge

    def _refuse(self, error: ProxyError) -> None:
        # Bytes that spoil a request after its answer has begun only end the connection.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_answer(error))
        self.transport.close()


def _too_large() -> ProxyError:
    return ProxyError("headers_too_large", f"The request's headers are larger than {MAX_HEAD} bytes.")


def _answer(error: ProxyError) -> bytes:
    body = error.body()
    headers = {
        **error.wire_headers(),
        "x-request-id": f"req_{secrets.token_hex(12)}",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
