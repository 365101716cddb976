"""A process of an installation on PostgreSQL, as far as its database goes, which tests let die."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.write_queue import WriteQueue
from tests.support.ledger_fixtures import NOW


class MortalEngine(PostgresEngine):
    """Does not sign off once it is `killed`."""

    killed = False

    def write_deferred(self) -> None:
        if not self.killed:
            super().write_deferred()


class Worker:
    """Its queue is started by the test. Its clock runs `faster`."""

    def __init__(
        self, address: ServerAddress, faster: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.identity = Identity()
        self.engine = MortalEngine(address, self.identity, clock=lambda: clock() * faster, wall=lambda: NOW)
        self.queue: WriteQueue[PostgresSession] = WriteQueue(self.engine, "test")
        self.connections = Connections(address)
        self.ledger = Ledger(self.queue, self.connections)

    async def die(self) -> None:
        """Stop without signing off, as a killed process does."""
        self.engine.killed = True
        await self.stop()

    async def stop(self) -> None:
        self.ledger.close()
        await self.connections.close()
        await asyncio.to_thread(self.queue.close)
