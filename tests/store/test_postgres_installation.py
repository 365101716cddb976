"""Processes that start at once on one PostgreSQL database, older programs, and the number of connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from codellama_proxy import __version__
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.migrations import is_current, migrate, shipped
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql.migrations import Migration
from tests.support.ledger_fixtures import ask, end, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import address_of

ADDS = Migration("0002_adds", "create table more (a integer);")
BREAKS = Migration("0003_breaks", "-- breaks: 9.0\ndrop table more;")


@pytest.fixture
def address(postgres_databases: Databases) -> ServerAddress:
    return address_of(postgres_databases.empty())


def at_once(count: int, do: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []

    def one() -> None:
        try:
            results.append(do())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_ten_processes_apply_each_migration_to_an_empty_database_once(address: ServerAddress) -> None:
    def start() -> list[str]:
        with closing(connect(address)) as db:
            return migrate(db, address)

    applied = [name for names in at_once(10, start) for name in names]
    assert sorted(applied) == [migration.name for migration in shipped()]


def test_processes_that_start_at_once_share_one_digest_key(address: ServerAddress) -> None:
    def start() -> bytes:
        with shared_database(address, print) as database:
            return database.digest_key()

    assert len(set(at_once(5, start))) == 1


def test_an_older_program_serves_beside_a_newer_one_unless_a_migration_breaks_it(
    address: ServerAddress,
) -> None:
    with closing(connect(address)) as db:
        migrate(db, address)
        migrate(db, address, [*shipped(), ADDS])
        assert is_current(db), "an older program ignores what only adds"
        migrate(db, address, [*shipped(), ADDS, BREAKS])
        with pytest.raises(StoreError, match="migrated by a newer version"):
            is_current(db)


def test_a_migration_that_breaks_older_programs_waits_until_they_are_stopped(address: ServerAddress) -> None:
    with closing(connect(address)) as db:
        migrate(db, address, [*shipped(), ADDS])
        db.native(
            "insert into workers values (1, 'old:1', '0.0.1', '', 0, 0, extract(epoch from clock_timestamp())::float8)"
        )
        with pytest.raises(StoreError, match=r"has to wait .* \(old:1\)"):
            migrate(db, address, [*shipped(), ADDS, BREAKS])
        db.native("update workers set version = %s", (__version__,))
        assert migrate(db, address, [*shipped(), ADDS, BREAKS]) == ["0003_breaks"]


def test_an_edited_migration_and_another_programs_tables_are_refused(
    address: ServerAddress, postgres_databases: Databases
) -> None:
    with closing(connect(address)) as db:
        migrate(db, address)
        with pytest.raises(StoreError, match="is not the one that was applied"):
            migrate(db, address, [shipped()[0]._replace(sql="select 1"), *shipped()[1:]])
    other = address_of(postgres_databases.empty())
    with closing(connect(other)) as db:
        db.script("create table keys (a integer)")
        with pytest.raises(StoreError, match="has tables of another program; it was left as it is"):
            migrate(db, other)
        assert db.native("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (1,)


def test_a_process_has_at_most_four_connections_also_under_load_and_after_breaks(
    address: ServerAddress,
) -> None:
    most = 0

    def count() -> int:
        with psycopg.connect(address.url) as db:
            row = db.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and application_name = 'codellama-proxy'"  # not the test's own, nor autovacuum
            ).fetchone()
        return 0 if row is None else int(row[0])

    async def use(store: Store) -> None:
        nonlocal most
        for round_ in range(6):
            asked = [store.reports.logs(Filters(), 1, 5) for _ in range(20)]
            asked += [store.overviews.since() for _ in range(5)]  # type: ignore[list-item]
            asked += [store.ledger.admit(ask(of_project(max_budget=10**6))) for _ in range(10)]  # type: ignore[list-item]
            waiting = asyncio.gather(*asked, return_exceptions=True)
            most = max(most, await asyncio.to_thread(count))
            await waiting
            most = max(most, await asyncio.to_thread(count))
            if round_ % 2:
                with psycopg.connect(address.url) as db:
                    db.execute(
                        "select pg_terminate_backend(pid, 10000) from pg_stat_activity"  # waits for its end
                        " where datname = current_database() and pid <> pg_backend_pid()"
                    )
        await healthy(store)

    run(address, use)
    assert 2 <= most <= 4


def test_a_tracking_record_is_in_the_outbox_with_its_settlement(address: ServerAddress) -> None:
    async def use(store: Store) -> None:
        request = ask(of_project(max_budget=10**6))
        await store.ledger.admit(request)
        store.ledger.settle(end(request, 3, record=b"\x00\xff{}"))
        assert await store.reports.request(request.request_id) is not None
        (waiting,) = await store.outbox.due(time.time(), 5)
        assert (waiting.request_id, waiting.body, waiting.kind) == (
            request.request_id,
            b"\x00\xff{}",
            "request",
        )
        assert await store.outbox.knows(request.request_id)

    run(address, use)


async def healthy(store: Store) -> None:
    async with asyncio.timeout(20):
        while not store.health.healthy:
            await asyncio.sleep(0.05)


def run(address: ServerAddress, use: Callable[[Store], Any]) -> None:
    async def main() -> None:
        with shared_database(address, print) as database:
            async with database.open() as store:
                await use(store)

    asyncio.run(main())
