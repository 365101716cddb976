"""Partitions, retention and sums of a PostgreSQL database: made ahead, dropped without changing a sum."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.postgres import housekeeping
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.outbox import trim
from codellama_proxy.store.postgres.session import PostgresSession, ServerError, connect
from codellama_proxy.store.reports import Filters
from tests.support.ledger_fixtures import NOW, ask, end, of_global, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database

BUDGET = of_project(max_budget=1000, budget_duration="month")


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


@pytest.fixture
def db(store: PostgresStore) -> Iterator[PostgresSession]:
    with closing(connect(store.address)) as session:
        yield session


async def spend(ledger: Ledger, at: float, cost: int) -> None:
    request = ask(BUDGET, created_at=at, request_id=new_request_id(at))
    await ledger.admit(request)
    ledger.settle(end(request, cost, content="{}"))


def with_history(store: PostgresStore, db: PostgresSession, days: int) -> None:
    """A request on each of the last days and today, in sums by hour and day."""
    for ago in range(days, 0, -1):
        housekeeping.make_partitions(db, NOW - ago * DAY)

    async def use(ledger: Ledger) -> None:
        for ago in range(days, -1, -1):
            await spend(ledger, NOW - ago * DAY, 10 + ago)

    store.run(use)
    store.now = NOW + 120
    assert housekeeping.roll_up(db) > 0


def spending(store: PostgresStore) -> Any:
    async def use(ledger: Ledger) -> Any:
        assert await ledger.reconcile() == []
        return await ledger.spend(("project", "day", "status"), Filters())

    return store.run(use)


def test_partitions_are_made_ahead_and_take_the_requests_of_their_days(
    store: PostgresStore, db: PostgresSession
) -> None:
    assert housekeeping.make_partitions(db, NOW) == 4
    assert housekeeping.make_partitions(db, NOW) == 0

    async def use(ledger: Ledger) -> None:
        for ahead in range(4):
            await spend(ledger, NOW + ahead * DAY, 1)

    store.run(use)
    assert store.value("select count(*) from settled_other") == 0
    for day in ("20261122", "20261125"):
        assert store.value(f"select count(*) from settled_{day}") == 1
        assert store.value(f"select count(*) from request_contents_{day}") == 1


def test_a_day_with_rows_in_the_default_partition_gets_no_partition(
    store: PostgresStore, db: PostgresSession, caplog: pytest.LogCaptureFixture
) -> None:
    store.run(lambda ledger: spend(ledger, NOW, 1))
    for _ in range(2):
        housekeeping.make_partitions(db, NOW)
    assert store.value(
        "select to_regclass('settled_20261122') is null and to_regclass('settled_20261123') is not null"
    )
    assert [record.message for record in caplog.records if "20261122" in record.message] == [
        "there is no partition for 20261122: requests of that day are in settled_other"
    ]


def test_retention_drops_whole_days_and_keeps_every_sum(store: PostgresStore, db: PostgresSession) -> None:
    with_history(store, db, 3)
    before, balance = spending(store), store.balance("project:web")
    assert housekeeping.fold(db, NOW - DAY) == 1
    assert store.value(
        "select to_regclass('settled_20261119') is null and to_regclass('settled_20261120') is not null"
    )
    assert store.value("select to_regclass('request_contents_20261119') is null")
    while housekeeping.fold(db, NOW):
        pass
    assert store.value("select count(*) from requests") == 1
    assert spending(store) == before
    assert store.balance("project:web") == balance == (10 + 11 + 12 + 13, 0)


def test_a_partition_with_a_running_request_or_without_sums_stays(
    store: PostgresStore, db: PostgresSession
) -> None:
    with_history(store, db, 2)
    store.execute("update rolled_up set upto = 0")
    assert housekeeping.fold(db, NOW) == 0
    store.execute("update rolled_up set upto = 1000")
    store.execute(
        "insert into held (request_id, seq, worker, created_at, project, endpoint, stream, hold_nanos, estimate_tokens)"
        " values ('req_runs', 0, 1, 0, 'web', '/', 0, 0, 1)"
    )
    assert housekeeping.fold(db, NOW) == 0


def test_a_report_that_runs_delays_retention_and_no_insert(store: PostgresStore, db: PostgresSession) -> None:
    with_history(store, db, 2)
    with psycopg.connect(store.address.url) as report:
        report.execute("select count(*) from settled")
        start = time.monotonic()
        with pytest.raises(ServerError):
            housekeeping.fold(db, NOW)
        assert time.monotonic() - start < 20, "it does not wait for the report"
        store.run(lambda ledger: spend(ledger, NOW, 1))
    assert housekeeping.fold(db, NOW) == 1


def test_a_balance_is_removed_when_nothing_has_limited_its_scope_for_a_day(
    store: PostgresStore, db: PostgresSession
) -> None:
    limits = (of_global(max_budget=1000), of_project(max_budget=1000, budget_duration="month"))

    async def use(ledger: Ledger) -> None:
        async def request(*scopes: ScopeLimits, cost: int) -> None:
            asked = ask(*scopes, created_at=store.now)
            await ledger.admit(asked)
            ledger.settle(end(asked, cost))
            await store.writer.barrier()

        await request(*limits, cost=1)
        await request(limits[0], cost=2)
        store.now = NOW + DAY - 10
        await request(*limits, cost=4)  # of a process with the older configuration
        await request(limits[0], cost=8)
        store.now = NOW + DAY + 10
        assert housekeeping.drop_unlimited_scopes(db) == 0
        store.now = NOW + 2 * DAY
        running = ask(limits[0], created_at=store.now)
        await ledger.admit(running)
        assert await ledger.fold(0.0) == 0
        assert store.value("select string_agg(scope, ' ') from scopes") == "global:"
        ledger.settle(end(running, 16))
        await request(*limits, cost=32)
        assert await ledger.reconcile() == []

    store.run(use)
    assert store.balance("global:") == store.balance("project:web") == (63, 0)


def test_one_process_at_a_time_adds_to_the_sums(store: PostgresStore, db: PostgresSession) -> None:
    with_history(store, db, 1)
    store.run(lambda ledger: spend(ledger, NOW, 1))
    store.now = NOW + 240
    with closing(connect(store.address)) as other, other.transaction():
        other.native(housekeeping.SQL["alone"], (housekeeping.LOCK,))
        assert housekeeping.roll_up(db) == 0
    assert housekeeping.roll_up(db) > 0


def test_young_requests_are_not_in_the_sums_yet(store: PostgresStore, db: PostgresSession) -> None:
    store.run(lambda ledger: spend(ledger, NOW, 1))
    assert housekeeping.roll_up(db) == 0
    assert spending(store)["total_requests"] == 1
    store.now = NOW + 61
    assert housekeeping.roll_up(db) == 1
    assert spending(store)["total_requests"] == 1


def test_a_full_outbox_drops_its_oldest_records(store: PostgresStore, db: PostgresSession) -> None:
    for number in range(10):
        db.native(
            "insert into outbox (kind, request_id, body) values ('request', %s, %s)", (str(number), b"12345")
        )
    assert trim(db, records=8) == 2
    assert trim(db, size=20) == 4
    assert store.value("select min(id) from outbox") == 7
    assert trim(db, size=1) == 3
    assert trim(db, size=1) == 0


def test_the_housekeeping_of_a_ledger_runs_on_an_empty_database(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        assert await ledger.roll_up() == 0
        assert await ledger.fold(NOW) == 0

    store.run(use)


def test_partitions_of_an_older_version_get_the_index_by_user(
    store: PostgresStore, db: PostgresSession
) -> None:
    with_history(store, db, 2)
    db.script("drop index settled_user_seq")
    db.script('create index settled_user_seq on only settled ("user", seq) where "user" is not null')
    missing = {name for (name,) in db.native(housekeeping.SQL["without_user_index"]).fetchall()}
    assert {"settled_20261120", "settled_20261121", "settled_20261122", "settled_other"} <= missing
    while housekeeping.index_users(db, NOW):
        pass
    left = [name for (name,) in db.native(housekeeping.SQL["without_user_index"]).fetchall()]
    assert left == ["settled_20261122"]  # today
    assert store.value("select to_regclass('settled_user') is not null")
    while housekeeping.index_users(db, NOW + 2 * DAY):
        pass
    assert db.native(housekeeping.SQL["without_user_index"]).fetchall() == []
    assert store.value("select to_regclass('settled_user') is null")
    assert store.value("select indisvalid from pg_index where indexrelid = 'settled_user_seq'::regclass")
    housekeeping.make_partitions(db, NOW + 5 * DAY)
    assert db.native(housekeeping.SQL["without_user_index"]).fetchall() == []
