"""Transactions of the ledger that the server undid: they are repeated, and take effect once; no request is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from typing import Any, get_args

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.admission import Extension
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from tests.support.builders import deployment
from tests.support.cutting_relay import LEDGER, CommitRelay, Cut
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases, PostgresServer
from tests.support.postgres_store import PostgresStore, address_of, prepared_database
from tests.support.postgres_worker import Worker

SCOPES = (
    of_global(max_parallel_requests=60),
    of_project(max_budget=1000),
    of_key(rpm_limit=60, tpm_limit=9000),
)
"""With a token rate, settlements share the transaction of the next admission."""
STARVED_SECONDS = 1.4
"""The server ends a transaction that waits for its client for 1 s."""
LOCKED_SECONDS = 5.0
"""The server gives up waiting for a lock after 4 s."""

Use = Callable[[Worker, CommitRelay], Coroutine[Any, Any, None]]


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    if not isinstance(postgres_databases.server, PostgresServer):
        pytest.skip("the server has no socket that is known")
    return PostgresStore(prepared_database(postgres_databases))


def run(store: PostgresStore, use: Use) -> None:
    """`use` a process whose connections go through a relay; its books have to be exact afterwards."""
    given = psycopg.conninfo.conninfo_to_dict(store.address.url)

    async def main() -> None:
        relay = CommitRelay(f"{given['host']}/.s.PGSQL.5432", commit=LEDGER)
        port = await relay.open()
        through = psycopg.conninfo.conninfo_to_dict(store.address.url, host="127.0.0.1", port=port)
        options = f"options={through['options'].replace('=', '%3D')}&sslmode=disable&gssencmode=disable"
        address = address_of(f"postgresql://postgres@127.0.0.1:{port}/{through['dbname']}?{options}")
        worker = Worker(replace(address, prepare=False))  # the relay reads statements
        await asyncio.to_thread(worker.queue.start)
        try:
            await use(worker, relay)
        finally:
            await worker.stop()
            await relay.close()

    asyncio.run(main())
    with closing(connect(store.address)) as db:
        assert reconcile(db) == []
        assert db.native("select count(*) from workers").fetchone() == (0,)


def holds(store: PostgresStore) -> int:
    return int(store.value("select count(*) from held"))


def test_a_process_that_gets_the_processor_too_late_is_refused_nothing(store: PostgresStore) -> None:
    async def use(worker: Worker, relay: CommitRelay) -> None:
        first, second = ask(*SCOPES), ask(*SCOPES)
        await worker.ledger.admit(first)
        worker.ledger.settle(end(first, 3))
        relay.delay_next(STARVED_SECONDS)
        assert (await worker.ledger.admit(second)).hold_nanos == 5
        assert worker.queue.healthy
        assert (store.balance("project:web"), holds(store)) == ((3, 5), 1)
        worker.ledger.settle(end(second, 4))

    run(store, use)
    assert store.balance("project:web") == (7, 0)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "and when it looks back"])
@pytest.mark.parametrize("cut", get_args(Cut))
def test_a_request_whose_commit_is_not_answered_is_admitted_once(
    store: PostgresStore, cut: Cut, times: int
) -> None:
    async def use(worker: Worker, relay: CommitRelay) -> None:
        first = ask(*SCOPES)
        await worker.ledger.admit(first)
        worker.ledger.settle(end(first, 3))
        relay.cut_next(cut, times)
        asked = [ask(*SCOPES) for _ in range(3)]
        assert {one.hold_nanos for one in await asyncio.gather(*map(worker.ledger.admit, asked))} == {5}
        assert relay.cuts == times
        assert (store.balance("project:web"), holds(store)) == ((3, 15), 3)
        assert store.level("key:key_a") == 56
        for one in asked:
            worker.ledger.settle(end(one, 1))

    run(store, use)
    assert store.balance("project:web") == (6, 0)
    assert store.value("select count(*) from settled where status = 'ok'") == 4


@pytest.mark.parametrize("cut", get_args(Cut))
def test_a_further_attempt_whose_commit_is_not_answered_extends_the_hold_once(
    store: PostgresStore, cut: Cut
) -> None:
    async def use(worker: Worker, relay: CommitRelay) -> None:
        first = ask(*SCOPES)
        await worker.ledger.admit(first)
        relay.cut_next(cut)
        more = Extension(first.request_id, SCOPES, 7, deployment("other"), ())
        assert await worker.ledger.extend(more) == 7
        assert store.balance("project:web") == (0, 12)
        worker.ledger.settle(end(first, 3))

    run(store, use)
    assert store.balance("project:web") == (3, 0)


def test_a_refusal_whose_commit_is_not_answered_stays_one(store: PostgresStore) -> None:
    async def use(worker: Worker, relay: CommitRelay) -> None:
        relay.cut_next("at once")
        with pytest.raises(ProxyError) as refused:
            await worker.ledger.admit(ask(of_project(max_budget=1)))
        assert refused.value.code == "insufficient_quota"

    run(store, use)


def test_a_request_waits_for_a_lock_longer_than_the_server_does(store: PostgresStore) -> None:
    async def use(worker: Worker, _: CommitRelay) -> None:
        await worker.ledger.admit(first := ask(*SCOPES))
        with psycopg.connect(store.address.url) as other:
            other.execute("select 1 from scopes where scope = 'global:' for no key update")
            release = threading.Timer(LOCKED_SECONDS, other.rollback)
            release.start()
            began = time.monotonic()
            await worker.ledger.admit(second := ask(*SCOPES))
            assert time.monotonic() - began > LOCKED_SECONDS - 0.5
            release.join()
        for one in (first, second):
            worker.ledger.settle(end(one, 1))

    run(store, use)
    assert store.balance("project:web") == (2, 0)


def test_a_process_whose_connection_is_ended_while_it_waits_is_refused_nothing(store: PostgresStore) -> None:
    async def use(worker: Worker, _: CommitRelay) -> None:
        await worker.ledger.admit(first := ask(*SCOPES))
        with psycopg.connect(store.address.url) as other, closing(connect(store.address)) as db:
            other.execute("select 1 from scopes where scope = 'global:' for no key update")
            waiting = asyncio.create_task(worker.ledger.admit(second := ask(*SCOPES)))
            await asyncio.sleep(0.3)
            db.native(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity where wait_event_type = 'Lock'"
                " and datname = current_database()"
            )
            other.rollback()
            await waiting
        for one in (first, second):
            worker.ledger.settle(end(one, 1))

    run(store, use)
    assert store.balance("project:web") == (2, 0)


def test_upkeep_that_fails_refuses_no_request(store: PostgresStore, caplog: pytest.LogCaptureFixture) -> None:
    async def use(worker: Worker, _: CommitRelay) -> None:
        store.execute("alter table cache_purges rename to away")
        for _ in range(8):
            await worker.ledger.admit(request := ask(*SCOPES))
            worker.ledger.settle(end(request, 1))
            await asyncio.sleep(0.2)
        assert worker.queue.healthy
        store.execute("alter table away rename to cache_purges")

    run(store, use)
    assert store.balance("project:web") == (8, 0)
    assert caplog.text.count("cache_purges") == 1


def test_a_server_that_went_away_refuses_at_once(store: PostgresStore) -> None:
    async def use(worker: Worker, relay: CommitRelay) -> None:
        await worker.ledger.admit(first := ask(*SCOPES))
        relay.refuse(True)
        began = time.monotonic()
        with pytest.raises(ProxyError) as refused:
            await worker.ledger.admit(ask(*SCOPES))
        assert refused.value.code == "accounting_unavailable"
        assert time.monotonic() - began < 2
        worker.ledger.settle(end(first, 1))
        relay.refuse(False)
        async with asyncio.timeout(20):
            while not worker.queue.healthy:
                await asyncio.sleep(0.05)

    run(store, use)
    assert store.balance("project:web") == (1, 0)
