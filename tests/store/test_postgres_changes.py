"""A PostgreSQL server whose connections break at a commit: each change and each request takes effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.admission import AdmissionRequest
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from tests.support.cutting_relay import DRIVER, LEDGER, CommitRelay, Cut
from tests.support.ledger_fixtures import ask, end, of_project
from tests.support.postgres import Databases, PostgresServer
from tests.support.postgres_store import address_of

NEW = KeyChange({"project": "web", "name": "of the test"})
CUTS: tuple[Cut, ...] = ("never", "at once", "delivered late")


@pytest.fixture
def direct(postgres_databases: Databases) -> str:
    if not isinstance(postgres_databases.server, PostgresServer):
        pytest.skip("the server has no socket that is known")
    return postgres_databases.empty()


@asynccontextmanager
async def reached(direct: str, commit: bytes = DRIVER) -> AsyncIterator[tuple[Store, CommitRelay]]:
    """A store whose connections go through a relay, which cuts them at a statement."""
    given = psycopg.conninfo.conninfo_to_dict(direct)
    relay = CommitRelay(f"{given['host']}/.s.PGSQL.5432", commit=commit)
    port = await relay.open()
    through = f"postgresql://postgres@127.0.0.1:{port}/{given['dbname']}?sslmode=disable&gssencmode=disable"
    through += "&prepare=off"  # the relay reads statements

    def prepared() -> object:
        with shared_database(address_of(through), print) as database:
            return database

    try:
        database = await asyncio.to_thread(prepared)
        async with database.open() as store:  # type: ignore[attr-defined]
            yield store, relay
    finally:
        await relay.close()


def made(direct: str) -> tuple[int, int, int]:
    """The numbers of keys, of secrets and of audit entries."""
    db = connect(address_of(direct))
    row = db.native(
        "select (select count(*) from keys), (select count(*) from key_secrets), (select count(*) from audit)"
    ).fetchone()
    db.close()
    return tuple(row)


@pytest.mark.parametrize("fresh", [True, False], ids=["new connection", "used connection"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_key_is_created_once_when_the_connection_breaks_at_the_commit(
    direct: str, cut: Cut, fresh: bool
) -> None:
    async def main() -> None:
        async with reached(direct) as (store, relay):
            if not fresh:
                assert await store.keys.page(1, 10, None) == ((), 0)
            relay.cut_next(cut)
            key, secret = await store.keys.create(NEW, "master", 1.0)
            assert relay.cuts == 1
            assert (await store.keys.get(key.key_id)).name == "of the test"
            relay.cut_next(cut)
            await store.keys.rotate(key.key_id, 0.0, "master", 2.0)
            assert secret
            assert relay.cuts == 2

    asyncio.run(main())
    assert made(direct) == (1, 1, 2)


def test_a_score_is_queued_once_when_the_connection_breaks_at_the_commit(direct: str) -> None:
    async def main() -> None:
        async with reached(direct) as (store, relay):
            for cut in CUTS:
                relay.cut_next(cut)
                await store.outbox.add("score", "req_1", b"{}")
            assert relay.cuts == len(CUTS)
            assert len(await store.outbox.due(1.0, 100)) == len(CUTS)

    asyncio.run(main())


def test_a_change_that_is_refused_is_not_tried_again(direct: str) -> None:
    async def main() -> None:
        async with reached(direct) as (store, relay):
            with pytest.raises(ProxyError, match="key"):
                await store.keys.delete("key_unknown", "master", 1.0)
            relay.cut_next("never", times=5)
            with pytest.raises(StoreUnavailableError):
                await store.keys.create(NEW, "master", 1.0)

    asyncio.run(main())
    assert made(direct) == (0, 0, 0)


def test_an_admission_whose_commit_arrives_after_its_connection_broke_is_undone(direct: str) -> None:
    async def main() -> None:
        async with reached(direct, LEDGER) as (store, relay):
            relay.late_seconds = 0.7  # longer than a reconnect takes, also on a loaded machine
            admitted: list[AdmissionRequest] = []
            for number in range(12):
                request = ask(of_project(max_budget=10**6))
                if number % 2 == 0:
                    relay.cut_next("delivered late")
                try:
                    await store.ledger.admit(request)
                except ProxyError:
                    await served_again(store)
                else:
                    admitted.append(request)
            assert relay.cuts >= 3
            assert len(admitted) >= 3
            async with asyncio.timeout(20):
                while held(direct) != len(admitted):
                    await asyncio.sleep(0.1)
            for request in admitted:
                store.ledger.settle(end(request, 1))

    asyncio.run(main())
    assert held(direct) == 0


async def served_again(store: Store) -> None:
    async with asyncio.timeout(20):
        while not store.health.healthy:
            await asyncio.sleep(0.01)


def held(direct: str) -> int:
    with closing(connect(address_of(direct))) as db:
        assert reconcile(db) == []
        (count,) = db.native("select count(*) from held").fetchone()
    return int(count)
