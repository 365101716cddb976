"""The ASGI app: every route, with and without `/v1`, and one error format for all of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.inbound.registry import DIALECTS
from codellama_proxy.request.context import CLIENT_CLOSED_REQUEST
from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.web import anthropic_models, feedback, health, input_tokens, metrics, models, responses
from codellama_proxy.web.admin import audit, keys, spend
from codellama_proxy.web.connection import REFUSED
from codellama_proxy.web.http import Cors, RequestId, respond_error
from codellama_proxy.web.inference import InferenceEndpoint
from codellama_proxy.web.observed import ERROR, Observed
from codellama_proxy.web.openapi.document import openapi
from codellama_proxy.web.paths import VERSION, Paths, normalize_path
from codellama_proxy.web.state import Runtime, runtime_of
from codellama_proxy.web.ui.pages import errors as ui_errors
from codellama_proxy.web.ui.routes import is_ui
from codellama_proxy.web.ui.routes import routes as ui_routes
from codellama_proxy.web.ui.state import UiState
from codellama_proxy.web.welcome import root

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]] | ASGIApp


def create_app(runtime: Runtime) -> FastPath:
    """The ASGI app of one server process."""
    answers = {
        f"/{endpoint}": InferenceEndpoint(runtime.gateway, endpoint, lambda: runtime.observer)
        for endpoint in DIALECTS
    }
    app = Starlette(
        routes=[
            *(route for path, answer in answers.items() for route in _both("POST", path, answer)),
            *_both("POST", "/messages/count_tokens", input_tokens.of_messages),
            *_both("POST", "/responses/input_tokens", input_tokens.of_responses),
            *_both("GET", "/models", models.list_models),
            *_both("GET", "/models/{id:path}", models.get_model),
            *_both("GET", "/responses", responses.upgrade),
            *_both("GET", "/responses/{response_id}", responses.stored),
            *_both("DELETE", "/responses/{response_id}", responses.stored),
            *_both("GET", "/responses/{response_id}/input_items", responses.stored),
            *_both("POST", "/responses/{response_id}/cancel", responses.stored),
            *_both("POST", "/responses/compact", responses.stored),
            *_both("GET", "/api/hello", health.hello),
            *_both("POST", "/key/generate", keys.generate),
            *_both("GET", "/key/info", keys.info),
            *_both("GET", "/key/list", keys.list_keys),
            *_both("POST", "/key/update", keys.update),
            *_both("POST", "/key/block", keys.block),
            *_both("POST", "/key/unblock", keys.unblock),
            *_both("POST", "/key/delete", keys.delete),
            *_both("POST", "/key/regenerate", keys.regenerate),
            *_both("GET", "/audit", audit.audit),
            *_both("GET", "/spend", spend.spend),
            *_both("GET", "/spend/logs", spend.logs),
            *_both("GET", "/requests/{request_id}", spend.one),
            *_both("POST", "/feedback", feedback.feedback),
            *_both("GET", "/metrics", metrics.metrics),
            *_both("GET", "/health", health.health),
            *_both("GET", "/health/liveliness", health.liveliness),
            *_both("GET", "/health/liveness", health.liveliness),
            *_both("GET", "/health/readiness", health.readiness),
            *_both("GET", "/", root.root),
            *_both("GET", "/welcome.css", root.style),
            *_both("GET", "/openapi.json", openapi),
            *ui_routes(),
        ],
        exception_handlers={
            ProxyError: _refused,
            StoreUnavailableError: _without_store,
            HTTPException: _not_routed,
            ClientDisconnect: _disconnected,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False
    app.state.runtime = runtime
    app.state.ui = UiState()
    app.state.paths = Paths(route.path for route in app.routes if isinstance(route, Route))
    shared = Cors(app, lambda: runtime.live.snapshot.server.cors_origins, is_ui)
    rest = Observed(RequestId(shared), app.state.paths, lambda: runtime.observer)
    return FastPath({prefix + path: answers[path] for prefix in ("", "/v1") for path in answers}, rest)


class FastPath:
    """Routes inference POSTs past the middleware: their endpoints handle every error themselves."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        """`endpoints` are those of inference by path. They may be called past this app, for a direct exchange."""
        self.endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        normalize_path(scope)
        endpoint = self.endpoints.get(scope["path"])
        if endpoint is None or scope["method"] != "POST" or _is_from_browser(scope):
            endpoint = self._rest
        await endpoint(scope, receive, send)


def _is_from_browser(scope: Scope) -> bool:
    """Browsers send an origin, and need CORS headers."""
    return b"origin" in dict(scope["headers"])


def _both(method: str, path: str, endpoint: Endpoint) -> list[Route]:
    return [Route(prefix + path, endpoint, methods=[method]) for prefix in ("", "/v1")]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    request.scope[ERROR] = error.code
    if is_ui(request.scope["path"]) and runtime_of(request).live.snapshot.ui.enabled:
        return ui_errors.refused(request, error)
    return respond_error(error, MESSAGES if _expects_anthropic(request) else None)


async def _without_store(request: Request, _: Exception) -> Response:
    return await _refused(request, accounting_unavailable())


def _expects_anthropic(request: Request) -> bool:
    """Whether errors are to be in Anthropic's form: its paths, and its clients at paths that both have."""
    path = request.url.path.removeprefix(VERSION)
    return path.startswith("/messages") or anthropic_models.is_wanted(request)


async def _disconnected(request: Request, _: Exception) -> Response:
    """A response for the log only: the client disconnected, or was already refused."""
    refused = request.scope.get(REFUSED)
    return (
        Response(status_code=CLIENT_CLOSED_REQUEST) if refused is None else await _refused(request, refused)
    )


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"{request.method} is not allowed here, only {allowed}."
        return await _refused(request, ProxyError("method_not_allowed", message, headers={"allow": allowed}))
    nearest = request.app.state.paths.nearest(request.scope["path"])
    message = (
        "There is no such path. Open / in a browser to see how to connect; /openapi.json lists all paths."
    )
    if nearest is not None:
        message += f" The nearest path is {nearest}."
    return await _refused(request, ProxyError("not_found", message))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("unhandled exception in a request", exc_info=error)
    return await _refused(request, ProxyError("internal_error", "Something went wrong in the proxy."))
