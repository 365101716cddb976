"""Reads for people, on a connection of their own and in bounded time, so that a look delays nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.postgres.connections import Connections

MAX_WAIT_SECONDS = 5.0
"""For the queue, a connection and the statement."""
MAX_SEARCH_SECONDS = 2
"""After which a statement is stopped."""

Barrier = Callable[[], Awaitable[None]]


class BoundedReads:
    """`connections` stop statements that take too long; `barrier` waits for what was queued."""

    def __init__(self, barrier: Barrier, connections: Connections) -> None:
        self._barrier = barrier
        self._connections = connections

    async def __call__(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """All rows of a statement, which sees every request whose response was sent.

        Raises `ProxyError` accounting_unavailable.
        """
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await self._barrier()
                return await self._connections.all(sql, tuple(values))
        except (StoreUnavailableError, TimeoutError) as error:
            raise accounting_unavailable() from error
