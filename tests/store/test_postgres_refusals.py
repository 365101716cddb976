"""A server that refuses statements: nothing is admitted, no settlement is lost, and only the cause is affected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Usage
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.reports import Filters
from tests.support.ledger_fixtures import ask, end, of_key, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database

BUDGET = (of_project(max_budget=1000, max_parallel_requests=5), of_key(rpm_limit=60))
TABLES = ("held", "settled", "scopes", "workers")


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


async def eventually(found: Callable[[], Any], wanted: object) -> None:
    for _ in range(200):
        if found() == wanted:
            return
        await asyncio.sleep(0.05)
    assert found() == wanted


@pytest.mark.parametrize("table", TABLES)
def test_while_statements_are_refused_nothing_is_admitted_and_settlements_are_kept(
    store: PostgresStore, table: str
) -> None:
    async def use(ledger: Ledger) -> None:
        asked = ask(*BUDGET)
        await ledger.admit(asked)
        store.execute(f"alter table {table} rename to away")
        ledger.settle(end(asked, cost=7))
        if table != "settled":  # an admission does not need it
            with pytest.raises(ProxyError, match="cannot be used") as refused:
                await ledger.admit(ask(*BUDGET))
            assert refused.value.code == "accounting_unavailable"
        await asyncio.sleep(0.3)
        store.execute(f"alter table away rename to {table}")
        await eventually(lambda: store.balance("project:web"), (7, 0))
        assert store.value("select count(*) from held") == 0

    store.run(use)


@pytest.mark.parametrize("number", [1 << 63, 1 << 70])
def test_values_that_cannot_be_stored_fail_alone(store: PostgresStore, number: int) -> None:
    async def use(ledger: Ledger) -> None:
        asked = ask(*BUDGET)
        await ledger.admit(asked)
        first, second = await asyncio.gather(
            ledger.admit(ask(prompt_estimate=number)), ledger.admit(ask(*BUDGET)), return_exceptions=True
        )
        assert isinstance(first, Exception)
        assert not isinstance(second, Exception)
        ledger.settle(end(asked, cost=7, total_ms=float(number), usage=Usage(number, 0)))
        await ledger.admit(ask(*BUDGET))

    store.run(use)


def test_a_refused_read_is_a_database_that_cannot_be_used(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        store.execute("alter table requests rename to away")
        store.execute("alter table outbox rename to gone")
        with pytest.raises(ProxyError) as refused:
            await ledger.spend(("project",), Filters())
        assert refused.value.code == "accounting_unavailable"
        with pytest.raises(StoreUnavailableError):
            await ledger.roll_up()
        store.execute("alter table away rename to requests")
        await ledger.spend(("project",), Filters())

    store.run(use)


def test_a_connection_that_cannot_be_opened_is_a_database_that_cannot_be_used(
    store: PostgresStore, tmp_path: Path
) -> None:
    address = replace(store.address, password_file=tmp_path / "not-mounted-yet")

    async def use() -> None:
        connections = Connections(address)
        with pytest.raises(StoreUnavailableError, match="file with the password"):
            await connections.all("select 1")
        (tmp_path / "not-mounted-yet").write_text("any")
        assert await connections.all("select 1") == [(1,)]
        await connections.close()

    asyncio.run(use())
