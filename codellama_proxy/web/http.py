"""Reading request bodies, sending JSON and errors, and the middleware of all routes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.inbound.dialect import Dialect
from codellama_proxy.openai_format.fields import parse_json
from codellama_proxy.web.client_headers import JSON, check_body_kind
from codellama_proxy.web.connection import BODY_COMPLETE, client_timeouts

MAX_ADMIN_BODY_BYTES = 1 << 20


def respond(content: Any, status: int = 200, dialect: Dialect | None = None) -> Response:
    """A response of JSON, with the headers of a `dialect` other than OpenAI's."""
    _, headers = _identified(dialect)
    return Response(orjson.dumps(content), status, headers=headers, media_type="application/json")


def respond_error(error: ProxyError, dialect: Dialect | None = None) -> Response:
    """An error response, in OpenAI's form unless another `dialect` is given."""
    if dialect is None or dialect.headers is None:
        return Response(error.body(), error.status, headers=error.wire_headers())
    request_id, headers = _identified(dialect)
    headers.update(error.wire_headers())
    return Response(dialect.error_body(error, request_id), error.status, headers=headers)


def _identified(dialect: Dialect | None) -> tuple[str, dict[str, str]]:
    """A request's new id and the headers with it; none for OpenAI's dialect, where `RequestId` adds it."""
    if dialect is None or dialect.headers is None:
        return "", {}
    now = time.time()
    request_id = new_request_id(now)
    own = HeaderLines(dialect.headers(request_id, None, None, now))
    return request_id, {"x-request-id": request_id, **own}


async def json_object(request: Request) -> dict[str, Any]:
    """The body of an admin request. Raises `ProxyError`: 408, 413, 415, or 400 for what is not a JSON object."""
    return parse_json(await receive_body(request.scope, request.receive, MAX_ADMIN_BODY_BYTES))


async def exact_json_object(request: Request) -> dict[str, Any]:
    """As `json_object`, but numbers too small for a float are `Decimal`, not 0."""
    body = await receive_body(request.scope, request.receive, MAX_ADMIN_BODY_BYTES)
    found = parse_json(body)
    zeros = {name for name, value in found.items() if isinstance(value, float) and not value}
    exact = json.loads(body, parse_float=Decimal, parse_int=float) if zeros else {}
    return found | {name: exact[name] for name in zeros if isinstance(exact[name], Decimal) and exact[name]}


async def receive_body(
    scope: Scope,
    receive: Receive,
    limit: int,
    grew: Callable[[int], None] = lambda _: None,
    kind: bytes = JSON,
) -> bytes:
    """The body of a request of at most `limit` bytes; `grew` is called with the size of each piece.

    `kind`: the expected media type.

    Raises `ProxyError`: 408, 413 or 415; `ClientDisconnect`.
    """
    check_body_headers(dict(scope["headers"]), limit, kind)
    if BODY_COMPLETE in scope:
        return await _read(receive, limit, grew)
    seconds = client_timeouts(scope).body
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, limit, grew)
    except TimeoutError:
        raise _too_slow(seconds) from None


async def _read(receive: Receive, limit: int, grew: Callable[[int], None]) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        check_size(size, limit)
        grew(len(piece))
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def check_body_headers(fields: Mapping[bytes, bytes], limit: int, wanted: bytes = JSON) -> None:
    """Raises `ProxyError` 413 or 415 for a body that its headers rule out."""
    check_body_kind(fields, wanted)
    length = fields.get(b"content-length", b"0")
    if length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise _too_large(limit)


def check_size(size: int, limit: int) -> None:
    """Raises `ProxyError` 413 for a body of `size` bytes that is larger than `limit`."""
    if size > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> ProxyError:
    # The rest of the body is not read, so the connection cannot be reused.
    return ProxyError(
        "request_too_large",
        f"The request body is larger than {limit} bytes.",
        headers={"connection": "close"},
    )


def _too_slow(seconds: float) -> ProxyError:
    message = f"The request body did not arrive within {seconds:g} seconds."
    return ProxyError("request_timeout", message, headers={"connection": "close"})


class _Preflights(CORSMiddleware):
    """Starlette's, with our errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        error = ProxyError("invalid_value", f"{bytes(response.body).decode()}: see server.cors_origins.")
        refusal = respond_error(error)
        refusal.headers["vary"] = response.headers["vary"]
        return refusal


class Cors:
    """Starlette's CORS middleware, rebuilt when the configured origins change. `never`: paths that it leaves alone."""

    def __init__(
        self, app: ASGIApp, origins: Callable[[], tuple[str, ...]], never: Callable[[str], bool]
    ) -> None:
        self._app = app
        self._origins = origins
        self._never = never
        self._built_for: tuple[str, ...] = ()
        self._cors: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._origins()
        if origins != self._built_for:
            self._built_for = origins
            self._cors = (
                self._app
                if not origins
                else _Preflights(
                    self._app,
                    allow_origins=origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                    expose_headers=["*"],
                )
            )
        await (self._app if self._never(scope["path"]) else self._cors)(scope, receive, send)


class RequestId:
    """Adds an `x-request-id` to every response that has none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name == b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", new_request_id(time.time()).encode()))
                    message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "http" else send)
