"""Uvicorn's HTTP/1.1, with a bound on heads and our error form for what never becomes a request."""

from __future__ import annotations

import secrets

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from codellama_proxy.errors import ProxyError

MAX_HEAD = 64 << 10
"""Bytes of a request's target and headers together."""


LEFT = "codellama_proxy.left"
"""In a request's scope: what to call when its client leaves before it has its answer. Quicker than a task that waits
for `receive` to say so."""

NO_HTTP = "The bytes received are not a valid HTTP/1.1 request."


class HeadTooLarge(ValueError):  # noqa: N818 - it says what happened
    """Raised inside the parser's callbacks, to stop it."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = 0
    """Bytes of the head so far, as the parser hands them out."""
    _in_head = False
    _unparsed = 0
    """Bytes of a head that came without ending it: the parser keeps an endless header to itself."""

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if not (was_in_head and self._in_head):
            self._unparsed = 0
            return
        self._unparsed += len(data)
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self._refuse(_too_large())

    def connection_lost(self, exc: Exception | None) -> None:
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
        super().on_headers_complete()

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
