"""Several workers on one PostgreSQL database: limits hold across them, and they settle what dead ones hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Price
from codellama_proxy.core.types import Attempt, Charge, Failure, Usage
from codellama_proxy.limits.admission import Admission, Extension
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.postgres.outbox import Outbox
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.workers import verify_new_scopes
from codellama_proxy.store.reports import Filters
from tests.support.builders import deployment
from tests.support.ledger_fixtures import NOW, ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database
from tests.support.postgres_worker import Worker

FASTER = 5.0
"""How much faster the clocks of workers run in tests about dead ones."""


class Installation:
    def __init__(self, store: PostgresStore) -> None:
        self.store = store

    @asynccontextmanager
    async def workers(self, count: int, faster: float) -> AsyncIterator[list[Worker]]:
        async with AsyncExitStack() as stack:
            found = [Worker(self.store.address, faster) for _ in range(count)]
            for worker in found:
                await asyncio.to_thread(worker.queue.start)
                stack.push_async_callback(worker.stop)
            yield found

    def run(self, count: int, use: Callable[..., Coroutine[Any, Any, Any]], faster: float = 1.0) -> Any:
        async def main() -> Any:
            async with self.workers(count, faster) as found:
                return await use(*found)

        return asyncio.run(main())


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


@pytest.fixture
def installation(store: PostgresStore) -> Installation:
    return Installation(store)


async def within(seconds: float, probe: Callable[[], object]) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(probe):
            await asyncio.sleep(0.05)


def test_a_budget_admits_exactly_what_fits_over_all_workers(
    installation: Installation, store: PostgresStore
) -> None:
    async def use(*workers: Worker) -> list[object]:
        asked = [workers[n % 3].ledger.admit(ask(of_project(max_budget=100))) for n in range(60)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = installation.run(3, use)
    assert sum(isinstance(answer, Admission) for answer in answers) == 20
    assert store.balance("project:web") == (0, 100)


def test_fifty_workers_admit_exactly_what_fits(store: PostgresStore) -> None:
    async def main() -> list[object]:
        workers = [Worker(store.address, 1.0) for _ in range(50)]
        await asyncio.gather(*(asyncio.to_thread(worker.queue.start) for worker in workers))
        budget = of_project(max_budget=100)
        asked = [worker.ledger.admit(ask(budget)) for worker in workers for _ in range(2)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in workers))
        return answers

    answers = asyncio.run(main())
    refused = [answer for answer in answers if not isinstance(answer, Admission)]
    assert len(refused) == 80
    assert {getattr(answer, "code", answer) for answer in refused} == {"insufficient_quota"}
    assert store.balance("project:web") == (0, 100)


def test_parallel_requests_and_rates_are_counted_over_all_workers(installation: Installation) -> None:
    async def use(*workers: Worker) -> tuple[int, int]:
        parallel = [workers[n % 3].ledger.admit(ask(of_global(max_parallel_requests=7))) for n in range(30)]
        rated = [workers[n % 3].ledger.admit(ask(of_key(rpm_limit=11))) for n in range(30)]
        answers = await asyncio.gather(*parallel, *rated, return_exceptions=True)
        admitted = [isinstance(answer, Admission) for answer in answers]
        return sum(admitted[:30]), sum(admitted[30:])

    assert installation.run(3, use) == (7, 11)


def test_a_refusal_takes_nothing_of_any_scope(installation: Installation, store: PostgresStore) -> None:
    scopes = (of_global(max_budget=1000, rpm_limit=100), of_project(max_parallel_requests=0))

    async def use(worker: Worker) -> None:
        with pytest.raises(ProxyError):
            await worker.ledger.admit(ask(*scopes))

    installation.run(1, use)
    assert store.balance("global:") == (0, 0)
    assert store.value("select count(*) from held") == 0
    assert store.level("global:") in (None, 100)


def test_one_settlement_by_two_workers_is_booked_once(
    installation: Installation, store: PostgresStore
) -> None:
    async def use(first: Worker, second: Worker) -> None:
        request = ask(of_project(max_budget=100))
        await first.ledger.admit(request)
        for worker in (first, second):
            worker.ledger.settle(end(request, 3))
        await first.queue.barrier()
        await second.queue.barrier()
        assert await first.ledger.reconcile() == []

    installation.run(2, use)
    assert store.balance("project:web") == (3, 0)


def test_what_a_dead_worker_holds_is_settled_by_another_at_its_maximum_cost(
    installation: Installation, store: PostgresStore
) -> None:
    first, second = deployment("first"), deployment("second")
    failure = Failure("transient", 502, reason="http_502")
    failed = Attempt("first#1", failure, 7.0, at=1.0, charge=Charge(Usage(3, 2), "estimated", 4))
    budget = of_project(max_budget=100)

    async def use(dead: Worker, alive: Worker) -> list[dict[str, Any]]:
        held = [ask(budget, deployment=first), ask(budget, deployment=first), ask(deployment=first)]
        for one in held:
            await dead.ledger.admit(one)
        await dead.ledger.extend(Extension(held[1].request_id, (budget,), 4, second, (failed,)))
        dead.ledger.note(Extension(held[2].request_id, (), 0, second, (failed,), Price(2 * 10**6, 0)))
        await dead.queue.barrier()
        await dead.die()
        await within(30, lambda: store.value("select count(*) from held") == 0)
        assert await alive.ledger.reconcile() == []
        rows, _ = await alive.ledger.logs(Filters(), 1, 10)
        return rows[::-1]

    once, twice, unlimited = installation.run(2, use, FASTER)
    assert [row["basis"] for row in (once, twice, unlimited)] == ["crash_estimate"] * 3
    assert [row["model"] for row in (once, twice, unlimited)] == ["first", "second", "second"]
    assert [len(row["attempts"]) for row in (once, twice, unlimited)] == [1, 2, 2]
    assert store.balance("project:web") == (5 + 9 + 6, 0)
    assert store.value("select count(*) from workers") == 0


def test_a_worker_that_was_taken_for_dead_registers_again_and_its_late_settlement_changes_nothing(
    installation: Installation, store: PostgresStore
) -> None:
    async def use(worker: Worker) -> None:
        request = ask(of_project(max_budget=100))
        await worker.ledger.admit(request)
        with closing(connect(store.address)) as db:  # as another worker would
            db.execute("update held set worker = 1")
            db.execute("delete from workers")
        await within(30, lambda: store.value("select count(*) from held") == 0)
        worker.ledger.settle(end(request, 1))
        await worker.queue.barrier()
        await worker.ledger.admit(ask())
        assert worker.engine.late_settlements == 1

    installation.run(1, use, FASTER)
    assert store.balance("project:web") == (5, 0)


def test_a_clean_stop_signs_off(installation: Installation, store: PostgresStore) -> None:
    async def use(*_: Worker) -> int:
        return int(store.value("select count(*) from workers"))

    assert installation.run(2, use) == 2
    assert store.value("select count(*) from workers") == 0


def test_a_budget_that_appears_while_others_do_not_know_it_is_exact_after_the_second_sum(
    installation: Installation, store: PostgresStore
) -> None:
    async def use(worker: Worker) -> None:
        await worker.ledger.admit(ask(of_project(max_budget=100)))
        # A transaction that read "no row" before and commits after: its request is in no balance.
        store.execute(
            "insert into held (request_id, worker, created_at, project, key_id, endpoint, stream, hold_nanos, "
            f"estimate_tokens) values ('req_ignorant', 1, {NOW}, 'web', 'key_a', '/', 0, 7, 1)"
        )
        assert await worker.ledger.reconcile() != []
        with closing(connect(store.address)) as db:
            verify_new_scopes(db)
            assert store.value("select verified from scopes where scope = 'project:web'") == 0, "too early"
            store.now = NOW + 20
            verify_new_scopes(db)
        assert await worker.ledger.reconcile() == []

    installation.run(1, use)
    assert store.balance("project:web") == (0, 12)
    assert store.value("select running from scopes where scope = 'project:web'") == 2


def test_the_clock_of_the_database_decides_about_windows(
    installation: Installation, store: PostgresStore
) -> None:
    day = of_project(max_budget=10, budget_duration="day")

    async def use(first: Worker, second: Worker) -> None:
        store.now = NOW
        for worker, created_at in ((first, NOW - 86400.0), (second, NOW + 86400.0)):
            await worker.ledger.admit(ask(day, created_at=created_at))
        with pytest.raises(ProxyError):
            await first.ledger.admit(ask(day, created_at=NOW + 86400.0))
        store.now = NOW + 86400.0
        await first.ledger.admit(ask(day))

    installation.run(2, use)
    assert store.value("select count(distinct created_at) from requests") == 2


def test_a_window_that_turns_under_load_counts_each_request_in_one_day(
    installation: Installation, store: PostgresStore
) -> None:
    day = of_project(max_budget=10**6, budget_duration="day")

    async def use(*workers: Worker) -> None:
        store.now = NOW

        async def client(number: int) -> None:
            worker = workers[number % len(workers)]
            for _ in range(12):
                request = ask(day)
                await worker.ledger.admit(request)
                await asyncio.sleep(0.005 * (number % 3))
                worker.ledger.settle(end(request, 3))

        clients = [asyncio.create_task(client(number)) for number in range(9)]
        while store.value("select count(*) from settled") < 30:
            await asyncio.sleep(0.01)
        store.now = NOW + DAY
        await asyncio.gather(*clients)
        for worker in workers:
            await worker.queue.barrier()
        assert await workers[0].ledger.reconcile() == []

    installation.run(3, use)
    today = store.value(
        "select coalesce(sum(cost_nanos), 0) from settled where created_at >= ?", NOW + DAY // 2
    )
    assert 0 < today < 9 * 12 * 3
    assert store.balance("project:web") == (today, 0)
    assert store.value("select sum(cost_nanos) from settled") == 9 * 12 * 3


def test_two_configurations_with_different_windows_open_a_window_once(
    installation: Installation, store: PostgresStore
) -> None:
    async def use(older: Worker, newer: Worker) -> None:
        older.identity.loaded_at, newer.identity.loaded_at = NOW - 100, NOW
        durations = []
        for worker, duration in ((older, "day"), (newer, "month"), (older, "day"), (newer, "month")):
            await worker.ledger.admit(ask(of_project(max_budget=100, budget_duration=duration)))
            durations.append(store.value("select budget_duration from scopes where scope = 'project:web'"))
        assert durations == ["day", "month", "month", "month"]
        assert await older.ledger.reconcile() == []

    installation.run(2, use)
    assert store.balance("project:web") == (0, 20)


def test_records_are_claimed_by_one_worker_at_a_time(installation: Installation) -> None:
    async def use(*workers: Worker) -> list[int]:
        boxes = [Outbox(worker.connections) for worker in workers]
        for number in range(30):
            await boxes[0].add("request", f"req_{number}", b"{}")
        claimed = await asyncio.gather(*(box.due(NOW, 10) for box in boxes))
        assert await boxes[0].due(NOW, 10) == []
        again = await boxes[1].due(NOW + 61, 100)  # the claims have expired
        assert len(again) == 30
        return [record.id for records in claimed for record in records]

    ids = installation.run(3, use)
    assert len(ids) == len(set(ids)) == 30
