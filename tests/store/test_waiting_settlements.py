"""Settlements on PostgreSQL wait a little, and admissions pass them only where that changes no answer."""

from __future__ import annotations

import asyncio

import pytest

from codellama_proxy.core.types import Usage
from codellama_proxy.limits.admission import Admission, LimitExceededError
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.ledger import Ledger
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


def held(store: PostgresStore) -> int:
    return int(store.value("select count(*) from held"))


def test_an_admission_with_room_does_not_wait_for_the_settlement_before_it(store: PostgresStore) -> None:
    scopes = (of_global(max_parallel_requests=9), of_project(max_budget=100), of_key(rpm_limit=60))

    async def use(_: Ledger) -> None:
        connections = Connections(store.address)
        ledger = Ledger(store.writer, connections, settle_within=3600)
        for before in range(3):
            request = ask(*scopes)
            await ledger.admit(request)
            assert held(store) == before + 1
            ledger.settle(end(request, 3))
        await store.writer.barrier()
        assert (held(store), store.balance("project:web")) == (0, (9, 0))
        await connections.close()

    store.run(use)


def test_a_settlement_is_written_without_another_request(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(of_project(max_budget=100))
        await ledger.admit(request)
        ledger.settle(end(request, 3))
        async with asyncio.timeout(20):
            while held(store):
                await asyncio.sleep(0.02)

    store.run(use)


@pytest.mark.parametrize(
    "scope",
    [of_key(max_parallel_requests=1), of_project(max_budget=10), of_project(max_budget=10, shadow=True)],
    ids=["parallel", "budget", "shadow"],
)
def test_an_admission_without_room_waits_for_the_settlement_before_it(
    store: PostgresStore, scope: ScopeLimits
) -> None:
    admissions: list[Admission] = []

    async def use(ledger: Ledger) -> None:
        for _ in range(6):
            request = ask(scope, max_tokens=10)
            admissions.append(await ledger.admit(request))
            ledger.settle(end(request, 0))

    store.run(use)
    assert [(admission.clamped, admission.shadowed) for admission in admissions] == [(False, ())] * 6
    assert held(store) == 0


def refused_second(store: PostgresStore, scope: ScopeLimits, cost: int, usage: Usage) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(scope)
        await ledger.admit(request)
        ledger.settle(end(request, cost, usage=usage))
        with pytest.raises(LimitExceededError):
            await ledger.admit(ask(scope))

    store.run(use)


def test_tokens_that_an_answer_used_count_for_the_next_request(store: PostgresStore) -> None:
    refused_second(store, of_key(tpm_limit=100), 0, Usage(1, 500))


def test_a_cost_over_the_hold_counts_for_the_next_request(store: PostgresStore) -> None:
    refused_second(store, of_project(max_budget=100), 99, Usage(1, 0))


def test_what_waits_is_written_when_the_ledger_closes(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(of_project(max_budget=1000))
        await ledger.admit(request)
        ledger.settle(end(request, 2))

    store.run(use)
    assert (held(store), store.balance("project:web")) == (0, (2, 0))


def test_reports_contain_what_waits(store: PostgresStore) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(of_project(max_budget=1000))
        await ledger.admit(request)
        ledger.settle(end(request, 2))
        assert await ledger.reconcile() == []
        assert held(store) == 0

    store.run(use)
