"""Responses to HTTP/1.0, which has no chunks: a body of unknown length ends with the connection (RFC 9112, 6.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI app."""


def until_close(cycle: RequestResponseCycle, app: App) -> App:
    """The app, without chunks in responses that have no content length. Uvicorn closes the connection after them."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        unsized = False

        async def send_unchunked(message: Any) -> None:
            nonlocal unsized
            if message["type"] == "http.response.start":
                unsized = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if unsized:
                    cycle.chunked_encoding = False
            elif unsized:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return answer
