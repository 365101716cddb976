"""Several workers on one PostgreSQL database against the model of the ledger: they take turns, and die."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.workers import DEAD_SECONDS, WATCH_SECONDS
from tests.store.test_ledger_model import LedgerMachine
from tests.support.ledger_fixtures import NOW
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database
from tests.support.postgres_worker import Worker

EXAMPLES = int(os.environ.get("PROXY_TEST_ROUNDS", "1")) * 3
SETTINGS = settings(
    max_examples=EXAMPLES, stateful_step_count=20, deadline=None, phases=(Phase.reuse, Phase.generate)
)
STEP_SECONDS = WATCH_SECONDS * 1.1


class Turns:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class InstallationMachine(LedgerMachine):
    """The same rules; what another worker wrote is what the next one reads."""

    databases: Databases
    count: int

    @initialize(most_balances=st.just(0))
    def begin(self, most_balances: int) -> None:
        self.store = PostgresStore(prepared_database(self.databases))  # type: ignore[assignment]
        self.runner = asyncio.Runner()
        self.clock = Turns()
        self.now = NOW
        self.rows = {}
        self.budgets = {"global:": (500, "day"), "project:web": (120, "hour")}
        self.committed = connect(self.store.address)  # type: ignore[assignment,attr-defined]
        self.turn = 0
        self.start()

    def start(self) -> None:
        self.workers = [self._worker() for _ in range(self.count)]

    def _worker(self) -> Worker:
        worker = Worker(self.store.address, clock=self.clock)  # type: ignore[attr-defined]
        worker.queue.start()
        return worker

    def stop(self) -> None:
        for worker in self.workers:
            self.runner.run(worker.stop())

    def teardown(self) -> None:
        try:
            self.look()
        finally:
            self.stop()
            self.committed.close()
            self.runner.close()

    @property
    def ledger(self) -> Ledger:  # type: ignore[override]
        """Of the worker whose turn it is; everything queued before is written."""
        for worker in self.workers:
            self.runner.run(worker.queue.barrier())
        self.turn += 1
        return self.workers[self.turn % len(self.workers)].ledger

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        """A worker dies. Another one settles its requests, after its beat has not changed for a while."""
        dead = self.workers.pop(number % len(self.workers))
        self.runner.run(dead.queue.barrier())
        lost = self._held_by(dead)
        self.runner.run(dead.die())
        self.workers.append(self._worker())
        self._wait_for_the_dead()
        for name in lost:
            row = self.rows[name]
            row.cost = row.hold or 1
        self.look()

    def _held_by(self, worker: Worker) -> list[str]:
        found = self.committed.execute("select request_id, worker from held").fetchall()
        return [name for name, number in found if number == worker.engine.number]

    @rule()
    def crash(self) -> None:
        """Every worker stops and starts again; what it holds is settled by those that come."""
        while self.workers:
            self.runner.run(self.workers.pop().die())
        self.start()
        self._wait_for_the_dead()
        self._recovered()

    def _wait_for_the_dead(self) -> None:
        for _ in range(int(DEAD_SECONDS / STEP_SECONDS) + 3):
            self.clock.now += STEP_SECONDS
            self.now += STEP_SECONDS
            self.store.now = self.now  # the database's clock: a beat is a new time
            for worker in self.workers:
                self.runner.run(worker.queue.barrier())


@pytest.mark.parametrize("count", [2, 3])
def test_workers_that_take_turns_say_what_the_model_says(postgres_databases: Databases, count: int) -> None:
    machine = type("Machine", (InstallationMachine,), {"databases": postgres_databases, "count": count})
    run_state_machine_as_test(machine, settings=SETTINGS)
