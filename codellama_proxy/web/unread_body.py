"""The rest of a body whose request has been refused."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive, Scope

from codellama_proxy.web.http_protocol import REST, WHOLE

PAUSE = 0.25
"""Seconds without a byte after which a client is taken to wait for its answer."""
LONG = 5.0
"""Seconds that an answer is held back at most."""


async def take_rest(scope: Scope, receive: Receive) -> None:
    """Reads and throws away what still comes of a body, before its request is refused.

    Some clients, Go's and all that is built on it among them, give up a connection that answers while they send.
    Returns when all of it has come, when its client pauses or left, or when it is too much; clients that ask
    before they send are not kept waiting.
    """
    room = scope.get(REST)
    if room is None or WHOLE in scope or any(name == b"expect" for name, _ in scope["headers"]):
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONG):
            while room() > 0:
                async with asyncio.timeout(PAUSE):
                    message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
