"""A real primary and a replica that becomes the primary: nothing that was answered is lost, and balances stay exact."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from typing import NamedTuple

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from codellama_proxy.store.sql import audit
from tests.support.cutting_relay import CommitRelay
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import QUICK, PostgresServer, own_programs
from tests.support.postgres_store import address_of
from tests.support.processes import until

SCOPES = (of_global(max_parallel_requests=60), of_project(max_budget=10**6), of_key(rpm_limit=10**6))
WORKERS = 2
NEW = KeyChange({"project": "web"})
NUMBER = "select pg_current_xact_id()::text::bigint"


def socket_of(server: PostgresServer) -> str:
    return f"{server.folder}/.s.PGSQL.5432"


class Pair(NamedTuple):
    primary: PostgresServer
    replica: PostgresServer

    @property
    def address(self) -> str:
        """Of whichever is the primary."""
        hosts = f"{self.primary.folder},{self.replica.folder}"
        return f"postgresql://postgres@/postgres?host={hosts}&target_session_attrs=read-write"

    def replicated(self) -> bool:
        with (
            psycopg.connect(self.primary.address()) as first,
            psycopg.connect(self.replica.address()) as second,
        ):
            sent = first.execute("select pg_current_wal_lsn()").fetchone()
            row = second.execute("select pg_last_wal_replay_lsn() >= %s", sent).fetchone()
        return bool(row and row[0])

    def fail_over(self) -> None:
        """The primary crashes; the replica becomes the primary with what it has."""
        self.primary.stop(signal.SIGQUIT)
        if self.replica.stopped:
            self.replica.start()
        self.replica.promote()


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = own_programs()
    primary = PostgresServer(folder, *QUICK)
    try:
        replica = PostgresServer(folder, *QUICK, primary=primary)
        try:
            yield Pair(primary, replica)
        finally:
            replica.remove()
    finally:
        primary.remove()


class Load:
    """Requests in turns at several processes: some are settled, some run."""

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores
        self.running: dict[str, Store] = {}
        self.settled: dict[str, int] = {}
        self.admitted = 0

    async def requests(self, count: int, *, left: int) -> None:
        """Admit a number of requests, and settle those that run but for `left`."""
        for _ in range(count):
            store = self.stores[self.admitted % len(self.stores)]
            request = ask(*SCOPES)
            await store.ledger.admit(request)
            self.running[request.request_id] = store
            self.admitted += 1
        for name in list(self.running)[: len(self.running) - left]:
            store = self.running.pop(name)
            self.settled[name] = len(self.settled) % 5
            store.ledger.settle(end(name, self.settled[name]))
        for store in self.stores:
            await store.reports.request("req_barrier")

    async def served_again(self) -> None:
        async with asyncio.timeout(30):
            for store in self.stores:
                while True:
                    try:
                        await store.ledger.admit(request := ask(*SCOPES))
                    except ProxyError:
                        await asyncio.sleep(0.05)
                    else:
                        self.running[request.request_id] = store
                        break


def booked(pair: Pair) -> dict[str, tuple[int, str, str]]:
    with closing(connect(address_of(pair.address))) as db:
        assert reconcile(db) == []
        rows = db.native("select request_id, cost_nanos, basis, status from settled").fetchall()
    return {name: (cost, basis, status) for name, cost, basis, status in rows}


def run(pair: Pair, *, lagging: bool) -> Load:
    async def main() -> Load:
        async with AsyncExitStack() as stack:
            opened = [
                stack.enter_context(shared_database(address_of(pair.address), print)) for _ in range(WORKERS)
            ]
            stores = [await stack.enter_async_context(database.open()) for database in opened]
            load = Load(stores)
            await load.requests(20, left=8)
            await stores[0].keys.create(KeyChange({"key_alias": "web"}), "cli", 1.0)
            await asyncio.to_thread(until, pair.replicated, "the replica has everything")
            if lagging:
                await asyncio.to_thread(pair.replica.stop)
                await stores[0].keys.create(KeyChange({"key_alias": "web"}), "cli", 1.0)
            await load.requests(20, left=8)
            if not lagging:
                await asyncio.to_thread(until, pair.replicated, "the replica has everything")
            await asyncio.to_thread(pair.fail_over)
            await load.served_again()
            await load.requests(6, left=0)
            return load

    return asyncio.run(main())


@pytest.mark.parametrize("lagging", [False, True], ids=["complete replica", "lagging replica"])
def test_after_a_failover_every_answered_request_is_booked_at_its_cost(
    pair: Pair, lagging: bool, caplog: pytest.LogCaptureFixture
) -> None:
    load = run(pair, lagging=lagging)
    assert ("putting them back" in caplog.text) == lagging
    rows = booked(pair)
    assert len(load.settled) == 48
    assert {name: rows[name] for name in load.settled} == {
        name: (cost, "exact", "ok") for name, cost in load.settled.items()
    }
    unanswered = rows.keys() - load.settled.keys()
    assert {rows[name] for name in unanswered} <= {(0, "exact", "error")}
    with closing(connect(address_of(pair.address))) as db:
        assert db.native("select count(*) from held").fetchone() == (0,)
        assert db.native("select count(*) from workers").fetchone() == (0,)
        keys = db.native("select count(*) from keys").fetchone()
    assert keys == (1,), "a key that was made in the lost moment is lost"


def test_a_change_that_a_failover_lost_is_made_again_though_its_transaction_number_is_used_by_another(
    pair: Pair,
) -> None:
    def fail_over() -> None:
        with closing(connect(address_of(pair.primary.address()))) as db:
            (last,) = db.native(NUMBER).fetchone()
        pair.fail_over()
        with closing(connect(address_of(pair.replica.address()))) as db:
            db.native("create table others (number bigint)")
            while db.native(f"insert into others ({NUMBER}) returning number").fetchone()[0] <= last:
                pass

    async def main() -> str:
        relay = CommitRelay(socket_of(pair.primary))
        port = await relay.open()
        through = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"
        with shared_database(address_of(pair.primary.address()), print):
            await asyncio.to_thread(until, pair.replicated, "the replica has everything")
            await asyncio.to_thread(pair.replica.stop)
        connections = Connections(address_of(f"{through}&prepare=off&connect_timeout=60"))
        relay.cut_next("at once", hold=True)
        making = asyncio.create_task(connections.change(lambda db: audit.create(db, "cli", NEW, 1.0)))
        while not relay.cuts:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(fail_over)
        relay.lead_to(socket_of(pair.replica))
        key, _ = await making
        await connections.close()
        await relay.close()
        return key.key_id

    made = asyncio.run(main())
    with closing(connect(address_of(pair.replica.address()))) as db:
        assert db.native("select key_id from keys").fetchall() == [(made,)]


def test_what_a_process_that_died_with_the_primary_had_not_replicated_becomes_an_estimate_or_is_lost(
    pair: Pair,
) -> None:
    async def main() -> list[str]:
        names = []
        with shared_database(address_of(pair.address), print) as database:
            async with database.open() as store:
                for number in range(4):
                    if number == 2:
                        await asyncio.to_thread(until, pair.replicated, "the replica has everything")
                        await asyncio.to_thread(pair.replica.stop)
                    request = ask(*SCOPES)
                    await store.ledger.admit(request)
                    names.append(request.request_id)
                pair.primary.stop(signal.SIGQUIT)  # and it stays away until the process ends
                with pytest.raises(StoreUnavailableError):
                    await store.keys.create(KeyChange({"key_alias": "web"}), "cli", 1.0)
        return names

    names = asyncio.run(main())
    pair.replica.start()
    pair.replica.promote()

    async def other() -> None:
        with shared_database(address_of(pair.address), print) as database:
            async with database.open():
                await asyncio.to_thread(
                    until, lambda: len(booked(pair)) == 2, "orphans are settled", within=40
                )

    asyncio.run(other())
    assert booked(pair) == dict.fromkeys(names[:2], (5, "crash_estimate", "error"))
