"""A read whose caller is cancelled is stopped, and the next one is answered."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from tests.support.postgres import Databases
from tests.support.postgres_store import address_of

ENDLESS = "with recursive n (x) as (select 1 union all select x + 1 from n) select count(*) from n"
RUNNING = "select count(*) from pg_stat_activity where state = 'active' and query like 'with recursive%'"
MOST_SECONDS = 5.0


def test_a_cancelled_read_is_stopped_on_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)

    async def use() -> None:
        reader = Reader(path)
        await reader.open()
        endless = asyncio.create_task(reader.all(ENDLESS))
        waiting = asyncio.create_task(reader.all("select 2"))
        await asyncio.sleep(0.2)
        endless.cancel()
        async with asyncio.timeout(MOST_SECONDS):
            with pytest.raises(asyncio.CancelledError):
                await endless
            assert await waiting == [(2,)]
            assert await reader.all("select 3") == [(3,)]
        await reader.close()

    asyncio.run(use())


def test_a_read_that_is_cancelled_before_it_runs_is_stopped_on_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)

    async def use() -> None:
        reader = Reader(path)
        await reader.open()
        for pause in (0, 0, 0.001, 0.002):
            endless = asyncio.create_task(reader.all(ENDLESS))
            await asyncio.sleep(pause)
            endless.cancel()
            async with asyncio.timeout(MOST_SECONDS):
                with pytest.raises(asyncio.CancelledError):
                    await endless
        assert await reader.all("select 3") == [(3,)]
        await reader.close()

    asyncio.run(use())


@pytest.fixture
def url(postgres_databases: Databases) -> str:
    return postgres_databases.empty()


def test_a_cancelled_read_is_stopped_on_a_server(url: str) -> None:
    async def use() -> None:
        connections = Connections(address_of(url), most=1)
        endless = asyncio.create_task(connections.all(ENDLESS))
        waiting = asyncio.create_task(connections.all("select 2"))
        with closing(connect(address_of(url))) as db:
            while not db.native(RUNNING).fetchone()[0]:
                await asyncio.sleep(0.02)
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless
            async with asyncio.timeout(MOST_SECONDS):
                while db.native(RUNNING).fetchone()[0]:
                    await asyncio.sleep(0.02)
                assert await waiting == [(2,)]
        await connections.close()

    asyncio.run(use())


def test_a_read_is_stopped_after_its_limit_of_time_on_a_server(url: str) -> None:
    async def use() -> None:
        connections = Connections(address_of(url), statement_seconds=1)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="statement timeout"):
            await connections.all(ENDLESS)
        assert time.monotonic() - started < MOST_SECONDS
        assert await connections.all("select 2") == [(2,)]
        await connections.close()

    asyncio.run(use())
