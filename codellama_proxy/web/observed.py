"""One log line and one count for every response, on any route."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.request.context import CLIENT_CLOSED_REQUEST
from codellama_proxy.tracking.lines import bounded
from codellama_proxy.tracking.log import Log
from codellama_proxy.tracking.metrics import Metrics
from codellama_proxy.tracking.unlocked_metrics import OTHER
from codellama_proxy.web.paths import UNKNOWN, Paths
from codellama_proxy.web.unread_body import take_rest

CALLER = "codellama_proxy.caller"
"""In a request's scope: the `Caller`, once it is known."""

ERROR = "codellama_proxy.error"
"""In a request's scope: the code of the error in its response."""

LOGGED_BY_GATEWAY = "codellama_proxy.logged_by_gateway"
"""In a request's scope: the gateway logs it, and its endpoint counts it."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})

_SECRET = re.compile(r"sk-[\w-]{6,}", re.ASCII)


class Observer:
    """Writes log lines and counts. `monotonic` returns seconds, `config` the digest in force."""

    def __init__(
        self, lines: Log, metrics: Metrics, monotonic: Callable[[], float], config: Callable[[], str]
    ) -> None:
        self._lines = lines
        self._metrics = metrics
        self.monotonic = monotonic
        self._config = config

    def count(self, route: str, method: str, status: int) -> None:
        self._metrics.http(route, method if method in METHODS else OTHER, status)

    def request(self, scope: Scope, route: str, status: int, request_id: str | None, started: float) -> None:
        """Logs and counts a request that the gateway did not handle."""
        self.count(route, scope["method"], status)
        caller = scope.get(CALLER)
        key = caller.key if caller is not None else None
        who = {"key_id": key.key_id, "project": key.project} if key is not None else {}
        self._line(
            request_id,
            route,
            status,
            error=scope.get(ERROR),
            method=scope["method"],
            path=bounded(_SECRET.sub("sk-...", scope["path"])),
            admin=caller is not None and caller.admin,
            total_ms=round((self.monotonic() - started) * 1000, 2),
            **who,
        )

    def malformed(self, request_id: str, error: ProxyError) -> None:
        """Logs and counts the response to a malformed request."""
        self.count(UNKNOWN, OTHER, error.status)
        self._line(request_id, UNKNOWN, error.status, error=error.code)

    def _line(self, request_id: str | None, route: str, status: int, **more: Any) -> None:
        outcome = "ok" if status < 400 else "cancelled" if status == CLIENT_CLOSED_REQUEST else "error"
        self._lines.request(
            {
                "request_id": request_id,
                "endpoint": route.strip("/") or "/",
                "status": outcome,
                "http_status": status,
                **more,
                "config": self._config(),
            }
        )


class Observed:
    """Middleware around all routes except the fast path."""

    def __init__(self, app: ASGIApp, paths: Paths, observer: Callable[[], Observer]) -> None:
        self._app = app
        self._paths = paths
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        observer = self._observer()
        started = observer.monotonic()
        status, request_id = CLIENT_CLOSED_REQUEST, None

        async def noted(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await take_rest(scope, receive)
                request_id = dict(message["headers"]).get(b"x-request-id", b"").decode("latin-1")
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if LOGGED_BY_GATEWAY not in scope:
                observer.request(scope, self._paths.route(scope["path"]), status, request_id, started)
