"""Reads the rest of a request's body before an early refusal."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope

from codellama_proxy.web.connection import BODY_COMPLETE, BODY_ROOM

PAUSE_SECONDS = 0.25
"""Without a byte for this long, the client is assumed to wait for the response."""
MAX_DELAY_SECONDS = 5.0
"""A response is delayed at most this long."""


async def take_rest(scope: Scope, receive: Receive) -> None:
    """Reads and discards the rest of a body, before its request is refused.

    Some clients, Go's among them, drop a connection that responds while they send. Returns when the body is complete,
    when the client pauses or disconnects, or when the body is too large. Clients that sent `Expect` do not wait.
    """
    room = scope.get(BODY_ROOM)
    if room is None or BODY_COMPLETE in scope or any(name == b"expect" for name, _ in scope["headers"]):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MAX_DELAY_SECONDS):
            while room() > 0:
                async with asyncio.timeout(PAUSE_SECONDS):
                    message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
