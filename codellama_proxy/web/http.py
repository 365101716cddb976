"""HTTP words that every handler needs: reading a JSON object, answering with one, answering with an error."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import parse_json
from codellama_proxy.web.connection import client_timeouts

MAX_ADMIN_BODY = 1 << 20

RawHeaders = Iterable[tuple[bytes, bytes]]


def respond(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def respond_error(error: ProxyError) -> Response:
    return Response(error.body(), error.status, headers=error.wire_headers())


async def json_object(request: Request) -> dict[str, Any]:
    """The body of an admin request. Raises `ProxyError`: 408, 413, 415, or 400 for what is not a JSON object."""
    check_body_headers(request.scope["headers"], MAX_ADMIN_BODY)
    seconds = client_timeouts(request.scope).body
    try:
        async with asyncio.timeout(seconds):
            return parse_json(await _read(request))
    except TimeoutError:
        raise too_slow(seconds) from None


async def _read(request: Request) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_ADMIN_BODY:
            raise too_large(MAX_ADMIN_BODY)
        pieces.append(piece)
    return b"".join(pieces)


def check_body_headers(headers: RawHeaders, limit: int) -> None:
    """What can be refused before a byte of the body is read. Raises `ProxyError` 413 or 415."""
    found = dict(headers)
    encoding = found.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b""):
        raise ProxyError("unsupported_content_encoding", "Request bodies must not be compressed.")
    kind = found.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise ProxyError("unsupported_media_type", "The content type must be application/json.")
    length = found.get(b"content-length", b"0")
    if length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise too_large(limit)


def too_large(limit: int) -> ProxyError:
    # Closing keeps the rest of the body off the connection: nobody will read it.
    return ProxyError(
        "request_too_large",
        f"The request body is larger than {limit} bytes.",
        headers={"connection": "close"},
    )


def too_slow(seconds: float) -> ProxyError:
    message = f"The request body did not arrive within {seconds:g} seconds."
    return ProxyError("request_timeout", message, headers={"connection": "close"})


class Cors:
    """Lets browsers of the configured origins call; Starlette's middleware, made anew when the origins change."""

    def __init__(self, app: ASGIApp, origins: Callable[[], tuple[str, ...]]) -> None:
        self._app = app
        self._origins = origins
        self._made_for: tuple[str, ...] = ()
        self._cors: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origins = self._origins()
        if origins != self._made_for:
            self._made_for = origins
            self._cors = (
                self._app
                if not origins
                else CORSMiddleware(
                    self._app,
                    allow_origins=origins,
                    allow_methods=["*"],
                    allow_headers=["*"],
                    expose_headers=["*"],
                )
            )
        await self._cors(scope, receive, send)


class RequestId:
    """Gives every answer that has none an `x-request-id`."""

    def __init__(
        self, app: ASGIApp, make: Callable[[], str] = lambda: f"req_{secrets.token_hex(12)}"
    ) -> None:
        self._app = app
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name == b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", self._make().encode()))
                    message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "http" else send)
