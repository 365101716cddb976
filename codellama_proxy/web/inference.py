"""The endpoints that models answer: an ASGI app each, so that one scope holds the whole answer, streams included.

Our protocol class tells when a client leaves, which cancels the request. Sending goes straight to `send`: no
response class stands between the gateway and the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.sse import HEARTBEAT
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.gateway.respond import ClientDisconnectedError
from codellama_proxy.openai_format.request import Endpoint
from codellama_proxy.request.context import CLIENT_LEFT
from codellama_proxy.web.auth import credential
from codellama_proxy.web.connection import client_timeouts
from codellama_proxy.web.http import check_body_headers, too_large, too_slow
from codellama_proxy.web.http_protocol import LEFT, REFUSED, WHOLE
from codellama_proxy.web.observed import BOOKED, Observer
from codellama_proxy.web.unread_body import take_rest

AT_ONCE = contextlib.nullcontext()
HINTS = (b"traceparent", b"tracestate")

log = logging.getLogger(__name__)


class InferenceEndpoint:
    """POST to one of them."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint, observer: Callable[[], Observer]) -> None:
        self._gateway = gateway
        self._endpoint = endpoint
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = AsgiClient(scope, receive, send)
        scope[BOOKED] = True
        try:
            await self._gateway.answer(self._endpoint, client)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not client.gone or task is None:
                raise
            task.uncancel()  # it was ours: the client left, and everything is settled
        except ClientDisconnectedError:
            pass
        except Exception:
            log.exception("a request ended in a bug")
            with contextlib.suppress(ClientDisconnectedError):
                await client.fail(ProxyError("internal_error", "Something went wrong in the proxy."))
        finally:
            client.close()
            self._observer().count(f"/{self._endpoint}", "POST", client.status)


class AsgiClient:
    """`gateway.Client` over ASGI."""

    __slots__ = (
        "_beats",
        "_headers",
        "_heartbeat",
        "_left",
        "_loop",
        "_patience",
        "_receive",
        "_scope",
        "_send",
        "_silent_since",
        "_task",
        "begun",
        "gone",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = False
        self.status = CLIENT_LEFT
        """That it was told, or that it left before it was told any."""
        self.gone = False
        """It left before it had the whole answer."""
        self._left: Callable[[], None] | None = None
        """Called when it leaves, if the request goes on without it."""
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._scope = scope
        self._patience = client_timeouts(scope)
        self._beats: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._silent_since = 0.0

    def credential(self) -> str | None:
        return credential(self._headers)

    def cache_control(self) -> str:
        return ",".join([v.decode("latin-1") for n, v in self._headers if n == b"cache-control"])

    def hints(self) -> dict[str, str]:
        return {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in self._headers
            if name in HINTS or name.startswith(b"x-promptlayer-")
        }

    def is_arriving(self) -> bool:
        return WHOLE not in self._scope

    def address(self) -> str:
        return str((self._scope.get("client") or ("",))[0])

    async def body(self, limit: int, grew: Callable[[int], None]) -> bytes:
        check_body_headers(self._headers, limit)
        try:
            async with asyncio.timeout(self._patience.body) if WHOLE not in self._scope else AT_ONCE:
                body = await self._read(limit, grew)
        except TimeoutError:
            raise too_slow(self._patience.body) from None
        self._scope[LEFT] = self._leave
        return body

    async def _read(self, limit: int, grew: Callable[[int], None]) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise self._scope.get(REFUSED) or ClientDisconnectedError
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            grew(len(piece))
            pieces.append(piece)
            if not message.get("more_body"):
                return b"".join(pieces)

    def stay(self, left: Callable[[], None]) -> None:
        self._left = left

    def _leave(self) -> None:
        """The answer has no reader any more: ends the request that is making it, unless it is to be finished."""
        self.gone = True
        if self._left is not None:
            self._left()
        elif self._task is not None:
            self._task.cancel()

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        self._check_reader()
        if status >= 400:
            await take_rest(self._scope, self._receive)
        self.begun = True
        self.status = status
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        if headers["content-type"].startswith("text/event-stream"):
            self._listen_to_silence(self._patience.heartbeat)

    def _check_reader(self) -> None:
        if self.gone and self._left is not None:
            raise ClientDisconnectedError

    async def write(self, data: bytes, *, last: bool) -> None:
        self._check_reader()
        if last:
            self.close()  # from here on, leaving is what a client is expected to do
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        self._silent_since = self._loop.time()

    def _listen_to_silence(self, seconds: float) -> None:
        self._beats = self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        """Sends a comment if nothing was sent for long, and looks again later: one timer, never reset."""
        if self.gone:
            return
        silent = self._loop.time() - self._silent_since
        if silent >= self._patience.heartbeat:
            if self._heartbeat is None or self._heartbeat.done():
                self._heartbeat = asyncio.create_task(self.write(HEARTBEAT, last=False))
            silent = 0.0
        self._listen_to_silence(self._patience.heartbeat - silent)

    async def fail(self, error: ProxyError) -> None:
        """The last resort: an answer if none has begun, and silence if one has."""
        if not self.begun:
            await self.begin(error.status, {**error.wire_headers(), "content-length": str(len(error.body()))})
            await self.write(error.body(), last=True)

    def close(self) -> None:
        """Nothing of this request is to happen any more."""
        self._scope.pop(LEFT, None)
        if self._beats is not None:
            self._beats.cancel()
            self._beats = None
        if self._heartbeat is not None:
            self._heartbeat.cancel()
