"""One database on a PostgreSQL server, shared by the processes of an installation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import CachePurge, KeptConfiguration, Reload, Store, WorkerInfo
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres import installation
from codellama_proxy.store.postgres.bounded_reads import MAX_SEARCH_SECONDS, BoundedReads
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.housekeeping import make_partitions
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.outbox import Outbox
from codellama_proxy.store.postgres.session import PostgresSession, as_store_error, wait_for
from codellama_proxy.store.postgres.stored_keys import StoredKeys, UiSessions
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.sql import stored_configurations
from codellama_proxy.store.sql.overviews import OverviewQueries
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sql.stored_configurations import SQL
from codellama_proxy.store.write_queue import WriteQueue

WORKERS = """
select name, version, digest, loaded_at, started_at, beat_at from workers order by started_at, name limit 1000
"""


@contextmanager
def shared_database(address: ServerAddress, say: Callable[[str], None]) -> Iterator[Database]:
    """The database, migrated if need be. `say`: told once if the server has to be waited for. Raises `StoreError`."""
    with closing(wait_for(address, say)) as db:
        migrate(db, address)
        with as_store_error(address):
            key = installation.digest_key(db)
            make_partitions(db, time.time())
    yield Database(address, key)


class Database:
    """`interfaces.Database`."""

    def __init__(self, address: ServerAddress, digest_key: bytes) -> None:
        self._address = address
        self._digest_key = digest_key
        self.identity = Identity()

    def digest_key(self) -> bytes:
        return self._digest_key

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with AsyncExitStack() as stack:
            engine = PostgresEngine(self._address, self.identity)
            queue: WriteQueue[PostgresSession] = WriteQueue(engine, str(self._address))
            await asyncio.to_thread(queue.start)
            stack.push_async_callback(asyncio.to_thread, queue.close)
            connections = Connections(self._address, lambda: queue.healthy)
            bounded = Connections(self._address, lambda: queue.healthy, 1, MAX_SEARCH_SECONDS)
            for opened in (connections, bounded):
                stack.push_async_callback(opened.close)
            read = BoundedReads(queue.barrier, bounded)
            keys = StoredKeys(connections, engine, lambda: queue.healthy)
            ledger = Ledger(queue, connections)
            stack.callback(ledger.close)
            yield Store(
                keys=keys,
                audit=keys,
                ledger=ledger,
                reports=ledger,
                searches=RequestSearch(read),
                overviews=OverviewQueries(read),
                upkeep=ledger,
                outbox=Outbox(connections),
                configurations=Configurations(queue, read, self.identity),
                ui_sessions=UiSessions(connections, queue),
                health=queue,
                workers=StoredWorkers(read, engine),
            )


class StoredWorkers:
    """`interfaces.Workers`."""

    def __init__(self, read: BoundedReads, engine: PostgresEngine) -> None:
        self._read = read
        self._engine = engine

    @property
    def late_settlements(self) -> int:
        return self._engine.late_settlements

    @property
    def configurations(self) -> Mapping[str, int]:
        return self._engine.configurations

    def cache_purges(self) -> list[CachePurge]:
        return self._engine.cache_purges.take()

    async def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo(*row) for row in await self._read(WORKERS, ())]


class Configurations:
    """`interfaces.Configurations`."""

    def __init__(self, queue: WriteQueue[PostgresSession], read: BoundedReads, identity: Identity) -> None:
        self._queue = queue
        self._read = read
        self._identity = identity

    def keep(self, kept: KeptConfiguration | None) -> None:
        with suppress(StoreUnavailableError):  # closed: the next start has the file, or an older copy
            self._queue.post(lambda db: stored_configurations.keep(db, kept))

    def record(self, reload: Reload) -> None:
        if reload.ok or reload.digest != self._identity.digest:
            self._identity.digest, self._identity.loaded_at = reload.digest, reload.at
        with suppress(StoreUnavailableError):  # closed
            self._queue.post(lambda db: stored_configurations.record(db, reload))

    async def reloads(self) -> list[Reload]:
        return [stored_configurations.reload_of(row) for row in await self._read(SQL["reloads"], ())]
