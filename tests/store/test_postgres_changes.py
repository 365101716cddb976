"""Changes of keys on a PostgreSQL server whose connection breaks at a commit: each takes effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from tests.support.cutting_relay import CommitRelay, Cut
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
async def reached(direct: str) -> AsyncIterator[tuple[Store, CommitRelay]]:
    """A store whose connections go through a relay."""
    given = psycopg.conninfo.conninfo_to_dict(direct)
    relay = CommitRelay(f"{given['host']}/.s.PGSQL.5432")
    port = await relay.open()
    through = f"postgresql://postgres@127.0.0.1:{port}/{given['dbname']}?sslmode=disable&gssencmode=disable"

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
