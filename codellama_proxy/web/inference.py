"""The inference endpoints, as ASGI apps: the gateway writes to `send` directly, without a response class.

The HTTP protocol class reports a client that disconnects, which cancels the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.core.types import Key, WriteChunk
from codellama_proxy.gateway.pipeline import Gateway
from codellama_proxy.gateway.respond import ClientDisconnectedError
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.request.context import CLIENT_CLOSED_REQUEST
from codellama_proxy.web.client_headers import ClientHeaders
from codellama_proxy.web.connection import (
    BODY_COMPLETE,
    EXCHANGE,
    ON_DISCONNECT,
    ON_HALF_CLOSE,
    REFUSED,
    Exchange,
    client_timeouts,
)
from codellama_proxy.web.http import check_size, receive_body
from codellama_proxy.web.observed import LOGGED_BY_GATEWAY, Observer
from codellama_proxy.web.unread_body import take_rest

log = logging.getLogger(__name__)


class InferenceEndpoint:
    """POST to one inference endpoint."""

    def __init__(
        self, gateway: Gateway, endpoint: str, observer: Callable[[], Observer], key: Key | None = None
    ) -> None:
        """`key`: whose requests these are, already authenticated; else each has a credential."""
        self._gateway = gateway
        self._key = key
        self._heartbeat = DIALECTS[endpoint].heartbeat
        self._endpoint = endpoint
        self._route = f"/{endpoint}"
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = AsgiClient(scope, receive, send, self._heartbeat)
        scope[LOGGED_BY_GATEWAY] = True
        try:
            await self._gateway.answer(self._endpoint, client, self._key)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not client.gone or task is None:
                raise
            task.uncancel()  # `_leave` cancelled it; the request is settled
        except ClientDisconnectedError:
            pass
        except Exception:
            log.exception("unhandled exception in a request")
            with contextlib.suppress(ClientDisconnectedError):
                await client.fail(ProxyError("internal_error", "Something went wrong in the proxy."))
        finally:
            client.finish()
            self._observer().count(self._route, "POST", client.status)


class AsgiClient:
    """`gateway.Client` over ASGI."""

    __slots__ = (
        "_beating",
        "_exchange",
        "_headers",
        "_heartbeat",
        "_heartbeat_timer",
        "_last_write",
        "_left",
        "_loop",
        "_pause",
        "_receive",
        "_scope",
        "_send",
        "_task",
        "begun",
        "gone",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, heartbeat: bytes) -> None:
        self.begun = False
        self.status = CLIENT_CLOSED_REQUEST
        """The status sent; 499 if the client disconnected first."""
        self.gone = False
        """The client disconnected before it had the whole response."""
        self._left: Callable[[], None] | None = None
        """Called at a disconnect, if the request continues without its client."""
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._scope = scope
        self._exchange: Exchange | None = scope.pop(EXCHANGE, None)
        exchange = self._exchange
        self._headers = ClientHeaders(scope["headers"]) if exchange is None else exchange.client_headers
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        self._heartbeat = heartbeat
        self._beating: asyncio.Task[None] | None = None
        self._last_write = 0.0

    def credential(self) -> str | None:
        return self._headers.credential()

    def cache_control(self) -> str:
        return self._headers.cache_control()

    def request_headers(self) -> Mapping[str, str]:
        return self._headers.as_text()

    def session(self) -> tuple[str | None, str | None]:
        return self._headers.session()

    def hints(self) -> dict[str, str]:
        return self._headers.hints()

    def is_arriving(self) -> bool:
        return BODY_COMPLETE not in self._scope

    def address(self) -> str:
        return str((self._scope.get("client") or ("",))[0])

    def whole_body(self, limit: int) -> bytes | None:
        body = self._exchange.take_body() if self._exchange is not None else None
        if body is not None:
            self._headers.check_body_kind()
            check_size(len(body), limit)
            self._scope[ON_DISCONNECT] = self._leave
        return body

    async def body(self, limit: int, grew: Callable[[int], None]) -> bytes:
        try:
            body = await receive_body(self._scope, self._receive, limit, grew)
        except ClientDisconnect:
            raise (self._scope.get(REFUSED) or ClientDisconnectedError) from None
        self._scope[ON_DISCONNECT] = self._leave
        return body

    def stay(self, left: Callable[[], None]) -> None:
        self._left = left

    def _leave(self) -> None:
        """The client disconnected: cancels the request, unless it is to be completed."""
        self.gone = True
        if self._left is not None:
            self._left()
        elif self._task is not None:
            self._task.cancel()

    async def begin(self, status: int, headers: Mapping[str, str], *, stream: bool = False) -> None:
        self._check_reader()
        if status >= 400:
            await take_rest(self._scope, self._receive)
        self.begun = True
        self.status = status
        if self._exchange is not None:
            self._exchange.begin(status, headers)
        else:
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": status, "headers": raw})
        if stream:
            self._scope[ON_HALF_CLOSE] = self._write_comment
            self._pause = client_timeouts(self._scope).heartbeat
            self._schedule_heartbeat(self._pause)

    def _check_reader(self) -> None:
        if self.gone and self._left is not None:
            raise ClientDisconnectedError

    async def write(self, data: bytes, *, last: bool) -> None:
        self._check_reader()
        if last:
            self.close()  # from here on, a disconnect is expected
        if self._exchange is None:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        else:
            if self._exchange.is_paused:
                await self._exchange.drain()
            self._exchange.write(data, last=last)
        self._last_write = self._loop.time()

    async def answer(self, headers: HeaderLines, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None or exchange.is_paused:
            await self.begin(200, headers)
            await self.write(body, last=True)
            return
        self._check_reader()
        self.begun = True
        self.status = 200
        self.close()  # from here on, a disconnect is expected
        exchange.respond(200, headers, body)

    def is_ready(self) -> bool:
        return self._exchange is not None and not self._exchange.is_paused and not self.gone

    def put(self, data: bytes) -> None:
        assert self._exchange is not None
        self._exchange.write(data, last=False)
        self._last_write = self._loop.time()

    def chunk_writer(self) -> WriteChunk | None:
        return None if self._exchange is None else self._exchange.pass_on

    def _schedule_heartbeat(self, seconds: float) -> None:
        self._heartbeat_timer = self._loop.call_later(seconds, self._beat)

    def _beat(self) -> None:
        """Sends a comment after a long silence, and schedules the next check: one timer, never reset."""
        if self.gone:
            return
        passed_at = 0.0 if self._exchange is None else self._exchange.passed_at
        silent = self._loop.time() - max(self._last_write, passed_at)
        if silent >= self._pause:
            self._write_comment()
            silent = 0.0
        self._schedule_heartbeat(self._pause - silent)

    def _write_comment(self) -> None:
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self.write(self._heartbeat, last=False))

    async def fail(self, error: ProxyError) -> None:
        """Sends the error if no response has begun."""
        if not self.begun:
            await self.begin(error.status, {**error.wire_headers(), "content-length": str(len(error.body()))})
            await self.write(error.body(), last=True)

    def finish(self) -> None:
        """Called when the request is over, whatever became of its response."""
        self.close()
        if self._exchange is not None:
            self._exchange.finish()

    def close(self) -> None:
        """Cancels the heartbeat and stops listening for a disconnect."""
        self._scope.pop(ON_DISCONNECT, None)
        if self._heartbeat_timer is not None:
            self._scope.pop(ON_HALF_CLOSE, None)
            self._heartbeat_timer.cancel()
            self._heartbeat_timer = None
        if self._beating is not None:
            self._beating.cancel()
