"""Outages of the database and frozen processes: none is taken for dead, nothing is lost, others wait for a second."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.scope_rows import SQL
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from codellama_proxy.store.postgres.workers import Watch
from tests.store.test_postgres_workers import FASTER, within
from tests.support.ledger_fixtures import ask, end, of_global, of_project
from tests.support.postgres import QUICK, Databases, PostgresServer, own_programs
from tests.support.postgres_store import PostgresStore, address_of, prepared_database
from tests.support.postgres_worker import Worker

SCOPES = (of_global(max_parallel_requests=60), of_project(max_budget=1000))
OUTAGE_SECONDS = 30.0
"""By the clock of the processes, which runs faster: three times as long as an unchanged beat of a dead one."""
FROZEN_SECONDS = 2.5
"""The server ends an idle transaction after 1 s; more on a loaded machine."""


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    one = PostgresServer(own_programs(), *QUICK)
    try:
        yield one
    finally:
        one.remove()


def test_an_outage_of_half_a_minute_makes_no_process_dead(server: PostgresServer) -> None:
    address = address_of(server.address())
    with closing(connect(address)) as db:
        migrate(db, address)

    async def main() -> None:
        workers = [Worker(address, FASTER) for _ in range(3)]
        async with AsyncExitStack() as stack:
            for worker in workers:
                await asyncio.to_thread(worker.queue.start)
                stack.push_async_callback(worker.stop)
            await use(workers)

    async def use(workers: list[Worker]) -> None:
        requests = [ask(*SCOPES) for _ in workers]
        for worker, request in zip(workers, requests, strict=True):
            await worker.ledger.admit(request)
        await asyncio.sleep(2 / FASTER)  # each has seen the others
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await asyncio.sleep(OUTAGE_SECONDS / FASTER)
        workers[0].ledger.settle(end(requests[0], 1))  # ends meanwhile
        await asyncio.to_thread(server.start)
        for worker in workers:
            await within(20, lambda worker=worker: worker.queue.healthy)  # type: ignore[misc]
        await asyncio.sleep(15 / FASTER)
        for worker, request in list(zip(workers, requests, strict=True))[1:]:
            worker.ledger.settle(end(request, 1))
        for worker in workers:
            await worker.queue.barrier()
            assert worker.engine.late_settlements == 0

    asyncio.run(main())
    with closing(connect(address)) as db:
        assert db.native(
            "select count(*), sum(cost_nanos), min(basis), max(basis) from settled"
        ).fetchone() == (
            3,
            3,
            "exact",
            "exact",
        )
        assert db.native("select count(*) from held").fetchone() == (0,)
        assert reconcile(db) == []


@pytest.mark.parametrize("noticed", [True, False], ids=["connection lost", "watch late"])
def test_beats_that_were_seen_before_an_outage_make_no_process_dead(
    store: PostgresStore, noticed: bool
) -> None:
    now = 0.0
    watch = Watch(lambda: now)
    with closing(connect(store.address)) as db:
        db.script(
            "insert into workers values (7, 'other:1', '0', '', 0, 0, 1);"
            "insert into held (request_id, worker, created_at, project, endpoint, stream, hold_nanos, estimate_tokens)"
            " values ('req_1', 7, 0, 'web', '/', 0, 0, 1)"
        )

        def looks(*times: float) -> int:
            nonlocal now
            settled = 0
            for at in times:
                now = at
                settled += watch.look(db, 1)
            return settled

        assert looks(0, 2, 4, 6) == 0
        if noticed:
            watch.forget()
        after = 8 if noticed else 20
        assert looks(*range(after, after + 10, 2)) == 0
        assert looks(after + 10) == 1
        assert db.native("select basis from settled").fetchall() == [("crash_estimate",)]


def test_a_look_back_that_fails_takes_nothing_from_the_queue(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        before, meanwhile = ask(*SCOPES), ask(*SCOPES)
        await ledger.admit(before)
        await ledger.admit(meanwhile)
        ledger.settle(end(before, 1))
        await store.writer.barrier()
        with closing(connect(store.address)) as db:
            db.script(
                "alter table settled rename to away; select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        ledger.settle(end(meanwhile, 2))
        await within(10, lambda: not store.writer.healthy)
        await asyncio.sleep(0.5)  # some tries
        with pytest.raises(ProxyError):
            await ledger.admit(ask(*SCOPES))
        assert store.value("select count(*) from held") == 1
        store.execute("alter table away rename to settled")
        await within(20, lambda: store.value("select count(*) from held") == 0)
        assert await ledger.reconcile() == []

    store.run(use)
    assert store.balance("project:web") == (3, 0)
    assert store.value("select count(*) from settled where status = 'ok'") == 2


def test_a_process_that_is_frozen_with_its_locks_holds_up_others_for_a_second(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        await ledger.admit(ask(*SCOPES))
        store.execute(
            "insert into workers values (1, 'frozen:1', '0', '', 0, 0, extract(epoch from clock_timestamp())::float8)"
        )
        with psycopg.connect(store.address.url) as frozen:
            frozen.execute(SQL["beat"].encode(), (1, 1))
            assert frozen.execute(SQL["lock"].encode(), (["global:", "project:web"],)).fetchall()
            start = time.monotonic()
            await ledger.admit(ask(*SCOPES))
            assert 0.5 < time.monotonic() - start < FROZEN_SECONDS
            with pytest.raises(psycopg.Error):
                frozen.execute("select 1")

    store.run(use)
    assert store.balance("project:web") == (0, 10)


def test_a_transaction_of_a_process_that_is_frozen_is_ended_with_its_locks(store: PostgresStore) -> None:
    store.execute("insert into scopes (scope) values ('global:')")
    lock = "select 1 from scopes for no key update"
    with closing(connect(store.address)) as frozen, closing(connect(store.address)) as other:

        def freeze() -> None:
            with frozen.transaction():
                frozen.native(lock)
                start = time.monotonic()
                with other.transaction():
                    other.native(lock)
                assert 0.5 < time.monotonic() - start < FROZEN_SECONDS

        with pytest.raises(psycopg.Error):
            freeze()
        assert not frozen.usable
