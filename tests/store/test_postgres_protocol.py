"""What makes a transaction of the ledger safe: the order of locks, the flush, the fence, and the look back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.operations import Admit
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.queued_write import QueuedWrite
from codellama_proxy.store.reports import Filters
from tests.support.ledger_fixtures import NOW, ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases, PostgresServer, own_programs
from tests.support.postgres_store import PostgresStore, address_of, prepared_database
from tests.support.processes import until

SCOPES = (of_global(max_budget=1000), of_project(max_budget=1000), of_key(rpm_limit=60))


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


@pytest.fixture
def engine(store: PostgresStore) -> Iterator[PostgresEngine]:
    opened = PostgresEngine(store.address, Identity(), wall=lambda: NOW)
    opened.open()
    yield opened
    opened.disconnect()


def admit(engine: PostgresEngine) -> QueuedWrite:
    item = QueuedWrite(Admit(ask(*SCOPES)), None, None, keep=False, inside=True)  # type: ignore[arg-type]
    engine.commit([item])
    return item


def is_locked(store: PostgresStore, scope: str) -> bool:
    with psycopg.connect(store.address.url) as db:
        found = db.execute(
            "select 1 from scopes where scope = %s for no key update skip locked", (scope,)
        ).fetchone()
    return found is None


def test_scopes_are_locked_in_the_order_of_their_names(store: PostgresStore, engine: PostgresEngine) -> None:
    admit(engine)
    # A heap in the opposite order, so that only the statement decides.
    store.execute("create table reversed as select * from scopes order by scope desc")
    store.execute("truncate scopes")
    store.execute("insert into scopes select * from reversed order by scope desc")
    with psycopg.connect(store.address.url) as other:
        other.execute("select 1 from scopes where scope = 'project:web' for no key update")
        waiting = threading.Thread(target=admit, args=(engine,))
        waiting.start()
        until(lambda: is_locked(store, "global:"), "the first lock")
        assert is_locked(store, "key:key_a")
        other.rollback()
        waiting.join(10)
    assert store.balance("project:web") == (0, 10)


def test_an_earlier_transaction_of_this_process_ends_before_the_next_one_looks(
    store: PostgresStore, engine: PostgresEngine
) -> None:
    admit(engine)
    with psycopg.connect(store.address.url) as zombie:  # a backend that has lost its client before the commit
        zombie.execute("update workers set beat_at = beat_at + 1")
        zombie.execute(
            "insert into held (request_id, worker, created_at, project, endpoint, stream, hold_nanos, estimate_tokens)"
            " select 'req_zombie', worker, 0, 'web', '/', 0, 0, 1 from workers"
        )
        engine.reset(OSError("the connection broke"))
        waiting = threading.Thread(target=admit, args=(engine,))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()
        zombie.commit()
        waiting.join(10)
    assert store.value("select status from requests where request_id = 'req_zombie'") == "error"
    assert store.value("select count(*) from held") == 2


def test_after_a_failover_that_lost_commits_the_last_minute_is_put_back(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        requests = [ask(*SCOPES) for _ in range(4)]
        for request in requests[:2]:
            await ledger.admit(request)
        await store.writer.barrier()
        # What the replica has: two held requests.
        saved = (
            "create table saved_held as select * from held; create table saved_scopes as select * from scopes"
        )
        with closing(connect(store.address)) as db:
            db.script(saved)
        for request in requests[2:]:
            await ledger.admit(request)
        for request in requests[1:3]:  # held and settled; new and settled
            ledger.settle(end(request, 3))
        await store.writer.barrier()
        with closing(connect(store.address)) as db:
            db.script(
                "truncate held, settled, scopes; insert into held select * from saved_held;"
                "insert into scopes select * from saved_scopes;"
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid();"
            )
        deadline = asyncio.get_running_loop().time() + 20
        while store.value("select count(*) from requests") != 4:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        assert await ledger.reconcile() == []
        for request in (requests[0], requests[3]):
            ledger.settle(end(request, 3))
        await store.writer.barrier()

    store.run(use)
    assert store.balance("project:web") == (12, 0)
    assert store.value("select count(*) from requests where status = 'ok' and cost_nanos = 3") == 4


def test_a_server_that_does_not_answer_refuses_requests_in_time(store: PostgresStore) -> None:
    async def use(patient: Ledger) -> None:
        connections = Connections(store.address)
        ledger = Ledger(store.writer, connections, patience=0.5)
        await patient.admit(ask(*SCOPES))
        writer = store.value(
            "select pid from pg_stat_activity where datname = current_database() and query like '%emit_message%'"
            " and pid <> pg_backend_pid()"
        )
        os.kill(writer, signal.SIGSTOP)
        try:
            with pytest.raises(ProxyError) as refused:
                await ledger.admit(ask(*SCOPES))
            with pytest.raises(ProxyError):
                await ledger.logs(Filters(), 1, 1)
        finally:
            os.kill(writer, signal.SIGCONT)
        assert refused.value.code == "accounting_unavailable"
        await store.writer.barrier()  # what came too late is undone
        assert await patient.reconcile() == []
        await connections.close()

    store.run(use)
    assert store.balance("project:web") == (0, 5)


def test_an_admitted_request_survives_a_crash_of_the_server_at_that_moment() -> None:
    server = PostgresServer(own_programs(), "fsync=on", "wal_writer_delay=10s", "wal_writer_flush_after=0")
    try:
        address = address_of(server.address())
        with closing(connect(address)) as db:
            migrate(db, address)
        engine = PostgresEngine(address, Identity())
        engine.open()
        items = [admit(engine) for _ in range(3)]
        server.stop(signal.SIGQUIT)
        server.start()
        with closing(connect(address)) as db:
            held = {name for (name,) in db.native("select request_id from held").fetchall()}
        assert held == {item.fn.ask.request_id for item in items}  # type: ignore[attr-defined]
        engine.disconnect()
    finally:
        server.remove()


def test_requests_wait_for_the_look_at_other_processes_only_if_it_is_late(store: PostgresStore) -> None:
    now = 100.0
    engine = PostgresEngine(store.address, Identity("first"), clock=lambda: now, wall=lambda: NOW)
    others = [PostgresEngine(store.address, Identity(digest)) for digest in ("second", "third")]

    def awaited() -> QueuedWrite:
        future: Future[object] = Future()
        return QueuedWrite(Admit(ask(*SCOPES)), future, None, keep=False, inside=True)  # type: ignore[arg-type]

    with ExitStack() as stack:
        for opened in (engine, *others):
            stack.callback(opened.disconnect)
        engine.open()
        engine.commit([])  # looks for the first time
        others[0].open()
        now += 0.6
        engine.commit([])  # looks for purges of the cache only
        now += 0.45
        engine.commit([awaited()])
        assert set(engine.configurations) == {"first"}
        assert engine.due_in == 0
        engine.commit([])
        assert set(engine.configurations) == {"first", "second"}
        assert engine.due_in
        others[1].open()
        now += 1.6
        engine.commit([awaited()])
        assert set(engine.configurations) == {"first", "second", "third"}
