"""Asks an upstream how many tokens a prompt has."""

from __future__ import annotations

import asyncio

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.upstream.http import Response, TransportError
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.response_body import MAX_ERROR_BYTES, read_start


async def ask(pools: Pools, sent: HttpRequest, deployment: Deployment, seconds: float) -> bytes | None:
    """The body of a 200 that arrives within `seconds`; `None` for any failure."""
    pool = pools.of(deployment)
    transport = pool.take()
    response: Response | None = None
    try:
        async with asyncio.timeout(seconds):
            response = await transport.send(sent, min(deployment.timeouts.connect, seconds))
            return await read_start(response, MAX_ERROR_BYTES) if response.status == 200 else None
    except (TransportError, TimeoutError):
        return None
    finally:
        if response is not None:
            await response.body.aclose()
        pools.give_back(pool)
