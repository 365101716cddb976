"""The HTTP surface: every route, with and without `/v1`, and one error form for all of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from codellama_proxy.errors import ProxyError
from codellama_proxy.web import health, keys, metrics, models, spend
from codellama_proxy.web.chat import ChatCompletions
from codellama_proxy.web.http import Cors, RequestId, respond_error

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]] | ASGIApp


def create_app(runtime: Any) -> ASGIApp:
    """`runtime` is what `serve` built: gateway, keys, ledger, live configuration."""
    app = Starlette(
        routes=[
            *_both("POST", "/chat/completions", ChatCompletions(runtime.gateway)),
            *_both("GET", "/models", models.list_models),
            *_both("GET", "/models/{id:path}", models.get_model),
            *_both("POST", "/key/generate", keys.generate),
            *_both("GET", "/key/info", keys.info),
            *_both("GET", "/key/list", keys.list_keys),
            *_both("POST", "/key/update", keys.update),
            *_both("POST", "/key/block", keys.block),
            *_both("POST", "/key/unblock", keys.unblock),
            *_both("POST", "/key/delete", keys.delete),
            *_both("POST", "/key/regenerate", keys.regenerate),
            *_both("GET", "/spend", spend.spend),
            *_both("GET", "/spend/logs", spend.logs),
            *_both("GET", "/requests/{request_id}", spend.one),
            *_both("GET", "/metrics", metrics.metrics),
            *_both("GET", "/health", health.health),
            *_both("GET", "/health/liveliness", health.liveliness),
            *_both("GET", "/health/liveness", health.liveliness),
            *_both("GET", "/health/readiness", health.readiness),
        ],
        exception_handlers={
            ProxyError: _refused,
            HTTPException: _not_routed,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.runtime = runtime
    return RequestId(Cors(app, lambda: runtime.live.snapshot.server.cors_origins))


def _both(method: str, path: str, endpoint: Endpoint) -> list[Route]:
    return [Route(prefix + path, endpoint, methods=[method]) for prefix in ("", "/v1")]


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    return respond_error(error)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message = f"{request.method} is not allowed here."
        return respond_error(ProxyError("method_not_allowed", message, headers=dict(error.headers or {})))
    return respond_error(ProxyError("not_found", "There is nothing at this path."))


async def _bug(_: Request, error: Exception) -> Response:
    log.error("a request ended in a bug", exc_info=error)
    return respond_error(ProxyError("internal_error", "Something went wrong in the proxy."))
