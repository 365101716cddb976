"""Changes of keys at another process are in force within a second: at a process that waits, and at one that is busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from codellama_proxy.auth.keys import Keys
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres.stored_keys import MAX_BEAT_AGE_SECONDS, StoredKeys
from codellama_proxy.store.postgres.workers import BEAT_SECONDS
from tests.support.ledger_fixtures import ask, of_global
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database
from tests.support.postgres_worker import Worker

LOCKED_SECONDS = 3.5
"""Less than the server waits for a lock, and much more than a change may take."""


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


@asynccontextmanager
async def processes(store: PostgresStore, count: int) -> AsyncIterator[list[tuple[Worker, Keys]]]:
    found = []
    watching = []
    for _ in range(count):
        worker = Worker(store.address)
        await asyncio.to_thread(worker.queue.start)
        queue = worker.queue
        keys = Keys(StoredKeys(worker.connections, worker.engine, lambda queue=queue: queue.healthy))  # type: ignore[misc]
        watching.append(asyncio.create_task(keys.watch()))
        found.append((worker, keys))
    try:
        yield found
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for worker, _ in found:
            await worker.stop()


async def answer(keys: Keys, secret: str) -> str:
    try:
        await keys.authenticate(secret)
    except ProxyError as error:
        return error.code
    return "accepted"


async def refused(keys: Keys, secret: str) -> None:
    async with asyncio.timeout(30):
        while (found := await answer(keys, secret)) == "accepted":
            await asyncio.sleep(0.01)
    assert found == "key_blocked"


def test_a_change_is_noticed_within_a_second() -> None:
    """The version is as old as a beat at most, and is looked at this often; later, nothing in memory is believed."""
    assert MAX_BEAT_AGE_SECONDS + StoredKeys.watch_seconds < 1
    assert BEAT_SECONDS < MAX_BEAT_AGE_SECONDS / 2


def test_a_blocked_key_is_refused_everywhere(store: PostgresStore) -> None:
    async def main() -> None:
        async with processes(store, 3) as found:
            key, secret = await found[0][1].create(KeyChange({"project": "web"}))
            for _, keys in found:
                await keys.authenticate(secret)
            await found[0][1].block(key.key_id)
            await asyncio.gather(*(refused(keys, secret) for _, keys in found))

    asyncio.run(main())


def test_a_blocked_key_is_refused_by_a_process_whose_transaction_waits_for_a_lock(
    store: PostgresStore,
) -> None:
    async def main() -> None:
        async with processes(store, 2) as ((_, changing), (busy, keys)):
            key, secret = await changing.create(KeyChange({"project": "web"}))
            await busy.ledger.admit(ask(of_global(max_budget=1000)))
            await keys.authenticate(secret)
            with psycopg.connect(store.address.url) as other:
                other.execute("select 1 from scopes where scope = 'global:' for no key update")
                waiting = asyncio.create_task(busy.ledger.admit(ask(of_global(max_budget=1000))))
                await asyncio.sleep(0.1)
                await keys.authenticate(secret)  # remembered from before the change
                release = asyncio.get_running_loop().call_later(LOCKED_SECONDS, other.rollback)
                await changing.block(key.key_id)
                await refused(keys, secret)
                assert not waiting.done()
                release.cancel()
                other.rollback()
                await waiting

    asyncio.run(main())
