"""The ledger: nothing is lost, nothing booked twice, no budget exceeded, whatever happens around it."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.core.types import Attempt, Charge, Failure, Key, Usage
from codellama_proxy.limits.admission import (
    Admission,
    AdmissionRequest,
    Extension,
    LimitExceededError,
    ScopeState,
    attempts_json,
)
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.ledger.balances import RATES_SECONDS
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.many_rows import with_rows
from codellama_proxy.store.sqlite.scope_rows import SQL
from codellama_proxy.store.sqlite.write_behind import MAX_UNWRITTEN_BYTES
from tests.support.builders import deployment, snapshot
from tests.support.ledger_fixtures import NOW, Store, ask, end, of_global, of_key, of_project, of_user
from tests.support.postgres_store import PostgresStore, prepared_database

BUDGET = 100


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs on both database systems, unless it is about one of them."""
    if "store" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("sqlite_only")
        metafunc.parametrize("store", ["sqlite"] if only else ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store | PostgresStore:
    if request.param == "sqlite":
        return Store(tmp_path / "proxy.db")
    return PostgresStore(prepared_database(request.getfixturevalue("postgres_databases")))


@pytest.fixture
def ledger(store: Store) -> Iterator[tuple[asyncio.Runner, Ledger]]:
    with asyncio.Runner() as runner:
        opened = store.open()
        yield runner, runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


class SyncLedger:
    """The ledger without its `await`s."""

    def __init__(self, runner: asyncio.Runner, ledger: Ledger, store: Store) -> None:
        self.run = runner.run
        self.ledger = ledger
        self._store = store

    def admit(self, request: AdmissionRequest) -> AdmissionRequest:
        self.run(self.ledger.admit(request))
        self.run(self._store.writer.barrier())
        return request

    def extend(self, extension: Extension) -> int:
        try:
            return self.run(self.ledger.extend(extension))
        finally:
            self.run(self._store.writer.barrier())

    def settle(self, request: AdmissionRequest | str, cost: int | None = 0, **given: object) -> None:
        self.ledger.settle(end(request, cost, **given))
        self.run(self._store.writer.barrier())

    def spend(self, request: AdmissionRequest, cost: int) -> None:
        self.settle(self.admit(request), cost)

    def refused(self, request: AdmissionRequest) -> ProxyError:
        with pytest.raises(ProxyError) as refused:
            self.admit(request)
        return refused.value

    def level(self, scope: str, kind: str = "rpm") -> float | None:
        """What is left of a rate, including what is not in the file yet."""
        if isinstance(self._store, Store):
            self.run(self._store.writer.barrier())
            self._store.elapsed += RATES_SECONDS
            self.run(self._store.writer.barrier())
        return self._store.level(scope, kind)

    def reconciles(self) -> bool:
        return self.run(self.ledger.reconcile()) == []

    def fold(self, before: float) -> int:
        return self.run(self.ledger.fold(before))


@pytest.fixture
def sync_ledger(ledger: tuple[asyncio.Runner, Ledger], store: Store) -> SyncLedger:
    return SyncLedger(*ledger, store)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def day_budget(most: int = BUDGET) -> ScopeLimits:
    return of_project(max_budget=most, budget_duration="day")


# --- holding and booking -------------------------------------------------------------------------------------


def test_of_fifty_concurrent_holds_exactly_those_that_fit_are_admitted(store: Store) -> None:
    async def use(ledger: Ledger) -> list[object]:
        asked = [ledger.admit(ask(of_project(max_budget=BUDGET))) for _ in range(50)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = store.run(use)
    refused = [answer for answer in answers if isinstance(answer, LimitExceededError)]
    assert len(refused) == 30
    assert {error.code for error in refused} == {"insufficient_quota"}
    assert store.balance("project:web") == (0, 100)


def test_a_settlement_replaces_the_hold_by_the_cost(sync_ledger: SyncLedger, store: Store) -> None:
    request = sync_ledger.admit(ask(of_project(max_budget=BUDGET)))
    assert store.balance("project:web") == (0, 5)
    sync_ledger.settle(request, 3)
    assert store.balance("project:web") == (3, 0)
    assert sync_ledger.reconciles()


def test_client_supplied_names_are_truncated(sync_ledger: SyncLedger, store: Store) -> None:
    request = ask(user="u" * 10**6, model_requested="m" * 10**6)
    sync_ledger.spend(request, 7)
    row = sync_ledger.run(sync_ledger.ledger.request(request.request_id))
    assert (row["model_requested"], len(row["user"]) <= 256) == ("m" * 256, True)


def test_settling_twice_books_the_cost_once(sync_ledger: SyncLedger, store: Store) -> None:
    request = sync_ledger.admit(ask(of_project(max_budget=BUDGET)))
    sync_ledger.settle(request, 3)
    sync_ledger.settle(request, 4, status="error")
    assert store.balance("project:web") == (3, 0)
    assert store.value("select status from requests") == "ok"


def test_settling_an_unknown_request_does_nothing(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.settle("req_nobody", 10)
    assert store.value("select count(*) from requests") == 0
    sync_ledger.admit(ask(of_project(max_budget=BUDGET)))
    sync_ledger.settle("req_nobody", 10)
    assert store.balance("project:web") == (0, 5)


def test_a_settlement_finds_an_unawaited_admission(store: Store) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(of_project(max_budget=BUDGET))
        waiting = asyncio.create_task(ledger.admit(request))
        await asyncio.sleep(0)
        waiting.cancel()
        ledger.settle(end(request, 2, status="cancelled", http_status=499))
        await asyncio.gather(waiting, return_exceptions=True)

    store.run(use)
    assert store.balance("project:web") == (2, 0)
    assert store.value("select status from requests") == "cancelled"


def test_a_request_is_booked_in_every_scope(sync_ledger: SyncLedger, store: Store) -> None:
    scopes = (
        of_global(max_budget=1000),
        of_project(max_budget=500),
        of_key(max_budget=200),
        of_user("bob", max_budget=100),
    )
    sync_ledger.spend(ask(*scopes, user="bob"), 7)
    assert [store.balance(scope.id) for scope in scopes] == [(7, 0)] * 4


def test_the_row_records_the_outcome(sync_ledger: SyncLedger, store: Store) -> None:
    request = sync_ledger.admit(ask(user="bob", stream=True))
    failed = Attempt("codellama#1", Failure("transient", 503, reason="http_503"), 12.34)
    served = Attempt("gpt-4#1", None, 5.0, at=12.5, charge=Charge(Usage(10, 20), "exact", 9))
    sync_ledger.settle(
        request,
        None,
        first_ms=13.5,
        attempts=attempts_json([failed.to_json(), served.to_json()]),
        usage=Usage(10, 20, 4, 2, 1),
        saved_nanos=9,
        basis="estimated",
    )
    row = sync_ledger.run(sync_ledger.ledger.request(request.request_id))
    assert row["attempts"] == [
        {
            "deployment": "codellama#1",
            "class": "transient",
            "status": 503,
            "at": 0.0,
            "ms": 12.3,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "cost_usd": 0,
            "basis": "exact",
            "reason": "http_503",
        },
        {
            "deployment": "gpt-4#1",
            "class": "ok",
            "status": 200,
            "at": 12.5,
            "ms": 5.0,
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "cost_usd": 9e-9,
            "basis": "exact",
        },
    ]
    assert row["first_ms"] == 13.5
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (10, 20, 4)
    assert (row["cost_usd"], row["saved_usd"], row["basis"]) == (None, 9e-9, "estimated")
    assert (row["user"], row["stream"], row["created_at"]) == ("bob", True, "2026-11-22T15:30:00.000Z")
    assert "content" not in row


def test_content_is_stored_if_given(sync_ledger: SyncLedger) -> None:
    request = sync_ledger.admit(ask())
    sync_ledger.settle(request, content='{"messages": []}')
    row = sync_ledger.run(sync_ledger.ledger.request(request.request_id))
    assert row["content"] == {"messages": []}


# --- all or nothing ------------------------------------------------------------------------------------------


def test_a_refused_request_consumes_nothing_in_any_scope(sync_ledger: SyncLedger, store: Store) -> None:
    full, empty = of_global(rpm_limit=60, tpm_limit=60, max_budget=1000), of_key(max_budget=2)
    sync_ledger.admit(ask(full))
    before = sync_ledger.level("global:"), sync_ledger.level("global:", "tpm"), store.balance("global:")
    assert sync_ledger.refused(ask(full, empty, max_tokens=20)).code == "insufficient_quota"
    sync_ledger.admit(ask())
    assert (
        sync_ledger.level("global:"),
        sync_ledger.level("global:", "tpm"),
        store.balance("global:"),
    ) == before
    assert store.value("select count(*) from requests") == 2


def test_a_refusal_for_parallelism_consumes_no_rate(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_key(rpm_limit=10, max_parallel_requests=1)
    running = sync_ledger.admit(ask(scope))
    for _ in range(5):
        error = sync_ledger.refused(ask(scope))
        assert (error.code, error.type) == ("concurrency_limit_exceeded", "requests")
    assert sync_ledger.level("key:key_a") == 9
    sync_ledger.settle(running)
    sync_ledger.admit(ask(scope))


def test_a_refusal_for_rate_holds_no_budget(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_key(rpm_limit=1, max_budget=BUDGET)
    sync_ledger.admit(ask(scope))
    error = sync_ledger.refused(ask(scope))
    assert (error.code, error.type, error.retry_after) == ("rate_limit_exceeded", "requests", 60)
    assert error.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert store.balance("key:key_a") == (0, 5)


def test_tokens_per_minute_are_corrected_by_actual_usage(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_key(tpm_limit=100)
    request = sync_ledger.admit(ask(scope, prompt_estimate=10))
    assert sync_ledger.level("key:key_a", "tpm") == 90
    sync_ledger.settle(request, usage=Usage(20, 200))
    assert sync_ledger.level("key:key_a", "tpm") == -120
    error = sync_ledger.refused(ask(scope, prompt_estimate=10))
    assert (error.type, error.retry_after) == ("tokens", pytest.approx(78))
    sync_ledger.admit(ask(scope, prompt_estimate=10, created_at=NOW + 78.01))


def test_a_cached_answer_keeps_its_token_estimate(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_key(tpm_limit=100)
    sync_ledger.settle(
        sync_ledger.admit(ask(scope, prompt_estimate=10)), usage=Usage(10, 500), basis="cached"
    )
    assert sync_ledger.level("key:key_a", "tpm") == 90


@pytest.mark.sqlite_only
def test_a_rate_alone_is_in_the_file_a_second_later_or_at_the_end(store: Store) -> None:
    async def use(ledger: Ledger) -> None:
        for _ in range(2):
            await ledger.admit(ask(of_key(rpm_limit=60)))
        assert store.level("key:key_a") is None
        async with asyncio.timeout(30):
            while store.level("key:key_a") != 58:
                await asyncio.sleep(0.05)
        await ledger.admit(ask(of_key(rpm_limit=60)))

    store.run(use)
    assert store.level("key:key_a") == 57


@pytest.mark.sqlite_only
def test_a_rate_that_is_full_again_is_not_written(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_key(rpm_limit=60, tpm_limit=600)
    sync_ledger.admit(ask(scope, created_at=NOW - 1, prompt_estimate=10))
    assert sync_ledger.level("key:key_a") is None
    sync_ledger.admit(ask(scope, prompt_estimate=10))
    assert (sync_ledger.level("key:key_a"), sync_ledger.level("key:key_a", "tpm")) == (59, 590)


@pytest.mark.sqlite_only
def test_a_failing_write_forgets_no_rate_and_counts_none_twice(sync_ledger: SyncLedger, store: Store) -> None:
    def fail_after_writing(db: sqlite3.Connection) -> None:
        db.execute("update requests set total_ms = 1")
        raise ValueError("half done")

    async def use() -> list[object]:
        scopes = of_key(rpm_limit=60), of_project(rpm_limit=60, max_budget=BUDGET)
        await sync_ledger.ledger.admit(ask(*scopes))
        await sync_ledger.ledger.admit(ask(*scopes))
        asked = [
            sync_ledger.ledger.admit(ask(*scopes)),
            store.writer.run(fail_after_writing),
            sync_ledger.ledger.admit(ask(*scopes)),
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(answer) for answer in sync_ledger.run(use())] == [Admission, ValueError, Admission]
    assert (sync_ledger.level("key:key_a"), sync_ledger.level("project:web")) == (56, 56)


def test_users_of_a_project_have_separate_limits(sync_ledger: SyncLedger) -> None:
    sync_ledger.admit(ask(of_user("bob", rpm_limit=1), user="bob"))
    sync_ledger.refused(ask(of_user("bob", rpm_limit=1), user="bob"))
    sync_ledger.admit(ask(of_user("eve", rpm_limit=1), user="eve"))


def test_parallel_requests_are_counted_per_user(sync_ledger: SyncLedger) -> None:
    long = "x" * 1000
    for user in ("bob", long):
        sync_ledger.admit(ask(of_user(user, max_parallel_requests=1), user=user))
        sync_ledger.refused(ask(of_user(user, max_parallel_requests=1), user=user))
    sync_ledger.admit(ask(of_user(long + "y", max_parallel_requests=1), user=long + "y"))


def test_scopes_without_limits_have_no_rows(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(user="bob"), 5)
    assert store.value("select count(*) from scopes") == 0


def test_a_shadow_limit_counts_and_never_refuses(sync_ledger: SyncLedger) -> None:
    scope = of_key(rpm_limit=1, max_budget=7, shadow=True)
    sync_ledger.spend(ask(scope), 6)
    admission = sync_ledger.run(sync_ledger.ledger.admit(ask(scope)))
    assert [refusal.kind for refusal in admission.shadowed] == ["requests", "budget"]
    assert admission.max_tokens is None


# --- windows -------------------------------------------------------------------------------------------------


def test_an_exhausted_budget_is_available_again_in_the_next_window(
    sync_ledger: SyncLedger, store: Store
) -> None:
    sync_ledger.spend(ask(day_budget()), 97)
    assert "resets at 2026-11-23T00:00:00Z" in sync_ledger.refused(ask(day_budget())).message
    sync_ledger.refused(ask(day_budget(), created_at=at("2026-11-22T23:59:59")))
    sync_ledger.admit(ask(day_budget(), created_at=at("2026-11-23T00:00:00")))
    assert store.balance("project:web") == (0, 5)
    assert sync_ledger.reconciles()


def test_a_monthly_window_ends_at_midnight_utc(sync_ledger: SyncLedger) -> None:
    scope = of_project(max_budget=BUDGET, budget_duration="month")
    sync_ledger.spend(ask(scope, created_at=at("2026-12-31T23:59:00")), 97)
    sync_ledger.refused(ask(scope, created_at=at("2026-12-31T23:59:59")))
    sync_ledger.admit(ask(scope, created_at=at("2027-01-01T00:00:01")))


def test_a_request_is_booked_in_the_window_it_was_admitted_in(sync_ledger: SyncLedger, store: Store) -> None:
    over_midnight = sync_ledger.admit(ask(day_budget(), created_at=at("2026-11-22T23:59:59")))
    sync_ledger.spend(ask(day_budget(), created_at=at("2026-11-23T00:00:01")), 1)
    sync_ledger.settle(over_midnight, 4)
    assert store.balance("project:web") == (1, 0)
    assert sync_ledger.reconciles()


def test_a_rolling_window_starts_at_the_first_use(sync_ledger: SyncLedger) -> None:
    scope = of_project(max_budget=BUDGET, budget_duration="5h")
    sync_ledger.spend(ask(scope), 97)
    assert "resets at 2026-11-22T20:30:00Z" in sync_ledger.refused(ask(scope)).message
    sync_ledger.refused(ask(scope, created_at=NOW + 5 * 3600 - 1))
    sync_ledger.admit(ask(scope, created_at=NOW + 5 * 3600))


def test_a_clock_set_back_reopens_no_window(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(day_budget()), 97)
    for back in (60, 7200, DAY):
        sync_ledger.refused(ask(day_budget(), created_at=NOW - back))
    sync_ledger.refused(ask(day_budget()))
    sync_ledger.admit(ask(day_budget(), created_at=NOW + DAY))
    assert sync_ledger.reconciles()


def test_a_clock_set_a_day_ahead_and_back_gives_at_most_one_more_budget(sync_ledger: SyncLedger) -> None:
    sync_ledger.spend(ask(day_budget()), 97)
    sync_ledger.spend(ask(day_budget(), created_at=NOW + DAY), 97)
    sync_ledger.refused(ask(day_budget()))
    sync_ledger.refused(ask(day_budget(), created_at=NOW + DAY))
    sync_ledger.admit(ask(day_budget(), created_at=NOW + 2 * DAY))
    assert sync_ledger.reconciles()


def test_a_clock_set_back_by_a_year_locks_a_scope_for_at_most_a_window(sync_ledger: SyncLedger) -> None:
    sync_ledger.spend(ask(day_budget(), created_at=NOW + 365 * DAY), 97)
    sync_ledger.refused(ask(day_budget()))
    sync_ledger.admit(ask(day_budget(), created_at=NOW + DAY))
    assert sync_ledger.reconciles()


def test_requests_slightly_out_of_order_at_midnight_share_one_window(
    sync_ledger: SyncLedger, store: Store
) -> None:
    midnight = at("2026-11-23T00:00:00")
    sync_ledger.spend(ask(day_budget(), created_at=midnight + 0.001), 10)
    sync_ledger.spend(ask(day_budget(), created_at=midnight - 0.001), 20)
    sync_ledger.spend(ask(day_budget(), created_at=midnight + 0.002), 30)
    assert store.balance("project:web") == (60, 0)


# --- limits that change ---------------------------------------------------------------------------------------


def test_a_changed_limit_keeps_the_spend(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(of_project(max_budget=BUDGET)), 60)
    sync_ledger.refused(ask(of_project(max_budget=62), max_tokens=5))
    sync_ledger.admit(ask(of_project(max_budget=65)))
    assert store.balance("project:web") == (60, 5)


@pytest.mark.parametrize("duration", ["hour", "day", "week", "month", "7d", "1h", None])
def test_a_changed_duration_keeps_the_spend_of_its_window(
    sync_ledger: SyncLedger, store: Store, duration: str | None
) -> None:
    sync_ledger.spend(ask(day_budget()), 60)
    running = sync_ledger.admit(ask(day_budget()))
    changed = of_project(max_budget=BUDGET, budget_duration=duration)
    sync_ledger.admit(ask(changed))
    assert store.balance("project:web") == (60, 10)
    sync_ledger.settle(running, 3)
    assert store.balance("project:web") == (63, 5)
    assert sync_ledger.reconciles()


def test_a_longer_window_includes_earlier_spend(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(day_budget(), created_at=NOW - DAY), 30)
    sync_ledger.spend(ask(day_budget()), 40)
    sync_ledger.admit(ask(of_project(max_budget=BUDGET, budget_duration="month")))
    assert store.balance("project:web") == (70, 5)


@pytest.mark.parametrize("kind", ["global", "project", "key", "user"])
def test_a_new_budget_includes_earlier_spend(sync_ledger: SyncLedger, store: Store, kind: str) -> None:
    budget = {
        "global": of_global(max_budget=BUDGET, budget_duration="day"),
        "project": of_project(max_budget=BUDGET, budget_duration="day"),
        "key": of_key(max_budget=BUDGET, budget_duration="day"),
        "user": of_user("bob", max_budget=BUDGET, budget_duration="day"),
    }[kind]
    other = {"project": "ops", "key": Key("key_b", "ops"), "user": "bob"}
    sync_ledger.spend(ask(user="bob", created_at=NOW - DAY), 1000)
    sync_ledger.spend(ask(user="bob"), 40)
    sync_ledger.spend(ask(**other), 7)
    running = sync_ledger.admit(ask(user="bob"))
    sync_ledger.admit(ask(budget, user="bob"))
    spent = 47 if kind == "global" else 40
    assert store.balance(budget.id) == (spent, 5)
    sync_ledger.settle(running, 2)
    assert store.balance(budget.id) == (spent + 2, 5)
    assert sync_ledger.reconciles()


def test_a_restored_budget_includes_all_spend(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(day_budget(), created_at=NOW - DAY), 30)
    sync_ledger.spend(ask(), 20)
    sync_ledger.spend(ask(of_key(max_budget=1000)), 20)
    assert sync_ledger.reconciles()
    sync_ledger.admit(ask(day_budget()))
    assert store.balance("project:web") == (40, 5)
    assert sync_ledger.reconciles()


def test_a_restored_budget_keeps_holds_of_other_scopes(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(day_budget()), 10)
    running = sync_ledger.admit(ask(of_key(max_budget=1000)))
    assert store.balance("project:web") == (10, 5)
    sync_ledger.settle(running, 5)
    assert store.balance("project:web") == (15, 0)


@pytest.mark.sqlite_only
def test_a_rate_limit_alone_reads_no_ledger_sums(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(of_project(rpm_limit=60)), 10)
    assert store.value("select first_seq from scopes") is None
    sync_ledger.admit(ask(of_project(rpm_limit=60, max_budget=BUDGET)))
    assert store.balance("project:web") == (10, 5)


# --- crashes --------------------------------------------------------------------------------------------------


@pytest.mark.sqlite_only
def test_holds_left_by_a_crash_are_settled_at_their_maximum_cost(store: Store) -> None:
    dear = Price(3_000_000, 0)

    async def crash(ledger: Ledger) -> None:
        await ledger.admit(ask(of_project(max_budget=BUDGET)))
        await ledger.admit(ask(prompt_estimate=7, prices=(dear, None)))
        await ledger.admit(ask(prices=(None,)))

    async def recover(ledger: Ledger) -> tuple[int, int, list[object]]:
        return await ledger.recover(), await ledger.recover(), await ledger.reconcile()

    store.run(crash)
    assert store.run(recover) == (3, 0, [])
    assert store.balance("project:web") == (26, 0)
    with store.elsewhere() as db:
        rows = db.execute("select status, basis, cost_nanos from requests order by seq").fetchall()
    assert rows == [
        ("error", "crash_estimate", 5),
        ("error", "crash_estimate", 21),
        ("error", "crash_estimate", None),
    ]


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("usage", [Usage(1 << 63), Usage(1, 1 << 70)])
def test_a_settlement_that_cannot_be_stored_releases_its_hold_and_is_booked_at_its_estimate(
    store: Store, usage: Usage, is_written: bool
) -> None:
    budget = of_project(max_budget=BUDGET)

    async def use(ledger: Ledger) -> None:
        held, other, unlimited = ask(budget), ask(budget), ask(project="ops")
        for one in (held, other, unlimited):
            await ledger.admit(one)
        if is_written:
            assert await ledger.reconcile() == []
        for one in (held, unlimited):
            ledger.settle(end(one, 7, usage=usage))
        ledger.settle(end(other, 2))
        rows, _ = await ledger.logs(Filters(), 1, 10)
        found = {row["request_id"]: (row["basis"], row["cost_usd"]) for row in rows}
        assert found[held.request_id] == ("estimated", 5e-9)
        assert found[unlimited.request_id] == ("estimated", 1e-9)
        assert found[other.request_id] == ("exact", 2e-9)
        assert {row["status"] for row in rows} == {"ok"}
        assert await ledger.reconcile() == []

    store.run(use)
    assert store.balance("project:web") == (7, 0)


@pytest.mark.sqlite_only
def test_a_row_settled_after_a_crash_names_model_and_attempts(store: Store) -> None:
    budget = of_project(max_budget=BUDGET)
    first, second = deployment("first"), deployment("second")
    failure = Failure("transient", 502, reason="http_502")
    failed = Attempt("first#1", failure, 7.0, at=1.0, charge=Charge(Usage(3, 2), "estimated", 4))

    async def crash(ledger: Ledger) -> None:
        held = [ask(budget, deployment=first), ask(budget, deployment=first), ask(deployment=first)]
        for one in held:
            await ledger.admit(one)
        await ledger.extend(Extension(held[1].request_id, (budget,), 4, second, (failed,)))
        ledger.note(Extension(held[2].request_id, (), 0, second, (failed,), Price(2 * 10**6, 0)))

    async def recover(ledger: Ledger) -> list[dict[str, Any]]:
        await ledger.recover()
        assert await ledger.reconcile() == []
        rows, _ = await ledger.logs(Filters(), 1, 10)
        return rows[::-1]

    store.run(crash)
    once, twice, unlimited = store.run(recover)
    assert [row["model"] for row in (once, twice, unlimited)] == ["first", "second", "second"]
    assert [row["deployment"] for row in (once, twice, unlimited)] == ["first#1", "second#1", "second#1"]
    assert [[one["deployment"] for one in row["attempts"]] for row in (once, twice)] == [
        ["first#1"],
        ["first#1", "second#1"],
    ]
    assert [row["cost_usd"] for row in (once, twice, unlimited)] == [5e-9, 9e-9, 6e-9]
    for row in (once, twice, unlimited):
        assert row["basis"] == row["attempts"][-1]["basis"] == "crash_estimate"
        assert (row["attempts"][-1]["class"], row["attempts"][-1]["reason"]) == ("transient", "crash")
        assert round(row["cost_usd"] * 1e9) == sum(round(one["cost_usd"] * 1e9) for one in row["attempts"])
        for name in ("prompt_tokens", "completion_tokens"):
            assert row[name] == sum(one[name] for one in row["attempts"])
    assert twice["attempts"][0] == failed.to_json()
    assert store.balance("project:web") == (20, 0)


# --- further attempts -----------------------------------------------------------------------------------------


def extension(request: AdmissionRequest, nanos: int, *scopes: ScopeLimits) -> Extension:
    return Extension(request.request_id, scopes, nanos, deployment("second"), ())


def test_a_further_attempt_extends_the_hold_in_all_scopes_or_none(
    sync_ledger: SyncLedger, store: Store
) -> None:
    wide, narrow = of_global(max_budget=1000), of_key(max_budget=20)
    request = sync_ledger.admit(ask(wide, narrow))
    assert sync_ledger.extend(extension(request, 10, wide, narrow)) == 10
    assert [store.balance(scope.id) for scope in (wide, narrow)] == [(0, 15), (0, 15)]
    with pytest.raises(LimitExceededError) as refused:
        sync_ledger.extend(extension(request, 6, wide, narrow))
    assert refused.value.code == "insufficient_quota"
    assert [store.balance(scope.id) for scope in (wide, narrow)] == [(0, 15), (0, 15)]
    sync_ledger.settle(request, 12)
    assert [store.balance(scope.id) for scope in (wide, narrow)] == [(12, 0), (12, 0)]
    assert sync_ledger.reconciles()


def test_a_shadow_budget_does_not_refuse_a_further_attempt(sync_ledger: SyncLedger, store: Store) -> None:
    shadow = of_key(max_budget=8, shadow=True)
    request = sync_ledger.admit(ask(shadow))
    assert sync_ledger.extend(extension(request, 10, shadow)) == 3
    assert store.balance(shadow.id) == (0, 8)
    sync_ledger.settle(request, 15)
    assert store.balance(shadow.id) == (15, 0)
    assert sync_ledger.reconciles()


def test_a_further_attempt_without_a_hold_holds_nothing(sync_ledger: SyncLedger, store: Store) -> None:
    budget = of_key(max_budget=1000)
    request = sync_ledger.admit(ask(budget))
    sync_ledger.settle(request, 3)
    assert sync_ledger.extend(extension(request, 10, budget)) == 0
    assert store.balance(budget.id) == (3, 0)
    assert sync_ledger.reconciles()


def test_a_further_attempt_belongs_to_the_window_of_its_request(
    sync_ledger: SyncLedger, store: Store
) -> None:
    hour = of_key(max_budget=20, budget_duration="hour")
    request = sync_ledger.admit(ask(hour))
    store.now = NOW + 3600
    assert sync_ledger.extend(extension(request, 100, hour)) == 100
    assert store.balance(hour.id) == (0, 0)
    sync_ledger.settle(request, 90)
    assert store.balance(hour.id) == (0, 0)
    assert sync_ledger.reconciles()


def _serve_until_killed(path: Path, admitted: "multiprocessing.connection.Connection") -> None:
    store = Store(path)

    async def use(ledger: Ledger) -> None:
        while True:
            request = ask(of_project(max_budget=10**9), request_id=f"req_{os.getpid()}_{os.urandom(4).hex()}")
            await ledger.admit(request)
            admitted.send((request.request_id, "held"))
            ledger.settle(end(request, 3))
            await store.writer.barrier()
            admitted.send((request.request_id, "ok"))

    store.run(use)


@pytest.mark.sqlite_only
def test_after_sigkill_every_acknowledged_row_exists_and_no_hold_remains(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    acknowledged: dict[str, str] = {}
    for kill_after in (3, 10, 25):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_serve_until_killed, args=(store.path, theirs))
        child.start()
        theirs.close()
        for _ in range(kill_after):
            request_id, status = ours.recv()
            acknowledged[request_id] = status
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()

        async def recover(ledger: Ledger) -> list[object]:
            await ledger.recover()
            return await ledger.reconcile()

        assert store.run(recover) == []
        with store.elsewhere() as db:
            assert db.execute("pragma integrity_check").fetchone() == ("ok",)
            rows = dict(db.execute("select request_id, status from requests"))
            (held,) = db.execute("select held_nanos from scopes").fetchone()
        assert held == 0
        assert set(acknowledged) <= set(rows)
        assert {rows[name] for name, status in acknowledged.items() if status == "ok"} <= {"ok"}
        assert "held" not in rows.values()


def test_a_closed_ledger_refuses_settlements(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def use(ledger: Ledger) -> Ledger:
        return ledger

    store.run(use).settle(end("req_late"))
    assert "after the ledger was closed" in caplog.text


# --- when nothing can be written ---------------------------------------------------------------------------------


@pytest.mark.sqlite_only
def test_a_full_disk_refuses_requests_without_loss_until_space_is_free(store: Store) -> None:
    async def use(ledger: Ledger) -> None:
        running = ask(of_project(max_budget=BUDGET))
        await ledger.admit(running)
        await store.writer.run(fill_the_disk)
        while ledger.healthy:
            await ledger.admit(ask(model_requested="x" * 5000))
            await asyncio.sleep(0.001)
        with pytest.raises(ProxyError) as refused:
            await ledger.admit(ask())
        assert (refused.value.status, refused.value.code) == (503, "accounting_unavailable")
        ledger.settle(end(running, 4))
        with store.elsewhere() as other:
            other.execute("drop table filler")
        while not ledger.healthy:
            await asyncio.sleep(0.05)
        await ledger.admit(ask())
        assert (await ledger.request(running.request_id) or {})["status"] == "ok"
        assert await ledger.reconcile() == []

    def fill_the_disk(db: sqlite3.Connection) -> None:
        db.execute("create table filler as select zeroblob(1000000) as b")
        (pages,) = db.execute("pragma page_count").fetchone()
        db.execute(f"pragma max_page_count={pages}").fetchone()

    store.run(use)
    assert store.balance("project:web") == (4, 0)


@pytest.mark.sqlite_only
def test_a_locked_database_refuses_once_it_is_noticed_and_loses_nothing(store: Store) -> None:
    async def use(ledger: Ledger) -> int:
        running, admitted = ask(of_project(max_budget=BUDGET)), 0
        await ledger.admit(running)
        await store.writer.run(lambda db: db.execute("pragma busy_timeout=100").fetchone())
        with store.elsewhere() as other:
            other.execute("begin exclusive")
            ledger.settle(end(running, 4))
            while ledger.healthy:
                await ledger.admit(ask(of_project(max_budget=BUDGET)))
                admitted += 1
                await asyncio.sleep(0.02)
            with pytest.raises(ProxyError) as refused:
                await ledger.admit(ask(of_project(max_budget=BUDGET)))
            assert refused.value.code == "accounting_unavailable"
            other.execute("rollback")
        while not ledger.healthy:
            await asyncio.sleep(0.02)
        await ledger.admit(ask(of_project(max_budget=BUDGET)))
        assert (await ledger.request(running.request_id) or {})["cost_usd"] == 4e-9
        assert await ledger.reconcile() == []
        return admitted + 1

    admitted = store.run(use)
    assert admitted > 1, "a short lock delays nobody"
    assert store.balance("project:web") == (4, 5 * admitted)


@pytest.mark.sqlite_only
def test_unwritten_content_in_memory_is_bounded(store: Store) -> None:
    """Also if readers have every batch queued while the database is locked."""
    scope, content = of_project(max_budget=BUDGET), "x" * (MAX_UNWRITTEN_BYTES // 8)

    async def use(ledger: Ledger) -> int:
        settled, readers = 0, []
        await ledger.admit(ask(scope))
        with store.elsewhere() as other:
            other.execute("begin exclusive")
            while ledger.healthy and settled < 12:
                request = ask(scope)
                await ledger.admit(request)
                ledger.settle(end(request, 4, content=content))
                settled += 1
                readers.append(asyncio.create_task(store.writer.barrier()))
                await asyncio.sleep(0.01)
            with pytest.raises(ProxyError) as refused:
                await ledger.admit(ask(scope))
            assert refused.value.code == "accounting_unavailable"
            other.execute("rollback")
        await asyncio.gather(*readers)
        async with asyncio.timeout(20):
            while not ledger.healthy:
                await asyncio.sleep(0.02)
        await ledger.admit(ask(scope))
        return settled

    settled = store.run(use)
    assert settled == 8
    assert store.balance("project:web") == (4 * settled, 10)
    assert store.value("select count(*) from request_contents") == settled


@pytest.mark.sqlite_only
def test_a_failing_admission_does_not_affect_its_batch(store: Store) -> None:
    async def use(ledger: Ledger) -> list[object]:
        twin = ask(of_project(max_budget=BUDGET))
        asked = [ledger.admit(one) for one in (twin, twin, ask(of_project(max_budget=BUDGET)))]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = store.run(use)
    assert isinstance(answers[1], ValueError)
    assert store.balance("project:web") == (0, 10)


@pytest.mark.sqlite_only
def test_a_failing_write_does_not_count_admissions_twice(store: Store) -> None:
    def fail_after_writing(db: sqlite3.Connection) -> None:
        db.execute("update scopes set spent_nanos = 50")
        raise ValueError("half done")

    async def use(ledger: Ledger) -> list[object]:
        scope = of_project(max_budget=BUDGET, rpm_limit=60, max_parallel_requests=9)
        await ledger.admit(ask(scope))
        asked = [
            ledger.admit(ask(scope)),
            store.writer.run(fail_after_writing),
            ledger.admit(ask(scope)),
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert await ledger.reconcile() == []
        return answers

    answers = store.run(use)
    assert [type(answer) for answer in answers] == [Admission, ValueError, Admission]
    assert store.balance("project:web") == (0, 15)
    assert store.level("project:web") == 57


@pytest.mark.sqlite_only
def test_a_failed_folding_does_not_roll_back_other_bookings(store: Store) -> None:
    async def use(ledger: Ledger) -> list[object]:
        scope = of_project(max_budget=BUDGET)
        old, running = ask(scope, created_at=NOW - 2 * DAY), ask(scope)
        await ledger.admit(old)
        ledger.settle(end(old, 7))
        await ledger.admit(running)
        ledger.settle(end(running, 3))
        answers = await asyncio.gather(
            ledger.admit(ask(scope)), ledger.fold(NOW - DAY), return_exceptions=True
        )
        assert await ledger.reconcile() == []
        return answers

    with store.elsewhere() as db:
        db.execute("create trigger broken before insert on totals begin select raise(abort, 'broken'); end")
    answers = store.run(use)
    assert [type(answer) for answer in answers] == [Admission, sqlite3.IntegrityError]
    assert store.balance("project:web") == (10, 5)


# --- old rows -----------------------------------------------------------------------------------------------------


@pytest.mark.sqlite_only
@pytest.mark.parametrize("most", [0, 1, 1000])
def test_balances_do_not_depend_on_the_number_in_memory(store: Store, most: int) -> None:
    async def use(ledger: Ledger) -> list[ScopeState]:
        for key in ("key_a", "key_b", "key_a", "key_b"):
            request = ask(of_global(max_parallel_requests=9), of_key(key, max_budget=20), key=Key(key, "web"))
            await ledger.admit(request)
            ledger.settle(end(request, 4))
            await ledger.admit(ask(*request.scopes, key=request.key))
            await store.writer.barrier()
            await asyncio.sleep(0.01)  # balances are evicted after the commit
        assert await ledger.reconcile() == []
        limited = snapshot(
            limits={
                "global": Limits(max_parallel_requests=9, given=frozenset({"max_parallel_requests"})),
                "key": Limits(max_budget=20, given=frozenset({"max_budget"})),
                "project": Limits(),
                "user": Limits(),
            }
        )
        found = [one for key in ("key_a", "key_b") for one in await ledger.standing(Key(key, "web"), limited)]
        return [one for one in found if one.scope.kind in ("global", "key")]

    store.most_balances = most
    found = store.run(use)
    assert [(one.running, one.spent_nanos, one.held_nanos) for one in found if one.scope.kind == "key"] == [
        (0, 8, 10),
        (0, 8, 10),
    ]
    assert [one.running for one in found if one.scope.kind == "global"] == [4, 4]


def test_folding_preserves_every_sum(sync_ledger: SyncLedger, store: Store) -> None:
    budget = of_project(max_budget=10**6, budget_duration="month")
    for day in range(5):
        for user in ("bob", "eve", None):
            sync_ledger.spend(ask(budget, user=user, created_at=NOW - (5 - day) * DAY), 10 + day)
    sync_ledger.settle(sync_ledger.admit(ask(budget)), None, status="error")
    store.now = NOW
    before = sync_ledger.run(_sums(sync_ledger.ledger))
    assert sync_ledger.fold(NOW - 2 * DAY) > 0
    assert store.value("select count(*) from requests") < 16
    assert sync_ledger.run(_sums(sync_ledger.ledger)) == before
    assert sync_ledger.reconciles()


def test_folding_preserves_the_totals_of_requests_with_sessions(
    sync_ledger: SyncLedger, store: Store
) -> None:
    """Daily totals have no sessions: what is folded counts in the group without one."""
    for day in range(4):
        request = ask(session=f"s{day}", agent="a", created_at=NOW - (4 - day) * DAY)
        sync_ledger.spend(request, 10 + day)
    store.now = NOW

    def spend(*groups: str, **filters: object) -> dict[str, Any]:
        found: dict[str, Any] = sync_ledger.run(sync_ledger.ledger.spend(groups, Filters(**filters)))
        return found

    before, sessions = spend("day"), spend("session", "agent")
    assert [(g["session"], g["agent"], g["requests"]) for g in sessions["data"]] == [
        (f"s{day}", "a", 1) for day in range(4)
    ]
    assert sync_ledger.fold(NOW - 2 * DAY) == 2
    assert spend("day") == before
    folded = spend("session")
    assert [(g["session"], g["requests"]) for g in folded["data"]] == [(None, 2), ("s2", 1), ("s3", 1)]
    assert folded["total_cost_usd"] == sessions["total_cost_usd"]
    assert spend(session="s0")["total_requests"] == 0
    assert spend(session="s2", agent="a")["total_requests"] == 1


async def _sums(ledger: Ledger) -> list[object]:
    from codellama_proxy.store.reports import GROUPS  # noqa: PLC0415

    filters = (
        Filters(),
        Filters(user="bob"),
        Filters(project="web", status="ok"),
        Filters(end=NOW - 2 * DAY),
    )
    return [await ledger.spend(groups, f) for groups in ((), GROUPS, ("user",), ("day",)) for f in filters]


def test_a_budget_added_after_folding_includes_earlier_spend(sync_ledger: SyncLedger, store: Store) -> None:
    for day in range(4):
        sync_ledger.spend(ask(user="bob", created_at=NOW - (4 - day) * DAY), 10)
    sync_ledger.admit(ask())
    sync_ledger.fold(NOW)
    budgets = (of_project(max_budget=BUDGET), of_key(max_budget=BUDGET), of_user("bob", max_budget=BUDGET))
    sync_ledger.admit(ask(*budgets, user="bob"))
    assert [store.balance(budget.id)[0] for budget in budgets] == [40, 40, 40]
    assert sync_ledger.reconciles()


def test_folding_keeps_todays_running_and_newest_rows(sync_ledger: SyncLedger, store: Store) -> None:
    store.now = NOW
    sync_ledger.spend(ask(created_at=NOW - 2 * DAY), 1)
    sync_ledger.admit(ask(created_at=NOW - 2 * DAY))
    sync_ledger.spend(ask(created_at=NOW - 2 * DAY), 1)
    assert sync_ledger.fold(NOW + DAY) == 1
    assert store.value("select count(*) from requests") == 2
    sync_ledger.spend(ask(), 1)
    assert sync_ledger.fold(NOW + DAY) == 0


def test_sequence_numbers_are_not_reused_after_folding(sync_ledger: SyncLedger, store: Store) -> None:
    scope = of_project(max_budget=BUDGET, budget_duration="day")
    sync_ledger.spend(ask(scope, created_at=NOW - 3 * DAY), 1)
    sync_ledger.spend(ask(scope, created_at=NOW - 2 * DAY), 2)
    newest = store.value("select max(seq) from requests")
    sync_ledger.fold(NOW)
    sync_ledger.spend(ask(scope), 3)
    assert store.value("select max(seq) from requests") == newest + 1
    assert store.balance("project:web") == (3, 0)


def test_content_is_deleted_with_its_row(sync_ledger: SyncLedger, store: Store) -> None:
    for _ in range(2):
        sync_ledger.settle(sync_ledger.admit(ask(created_at=NOW - 2 * DAY)), content="{}")
    sync_ledger.settle(sync_ledger.admit(ask()), content="{}")
    assert sync_ledger.fold(NOW) == 2
    assert store.value("select count(*) from request_contents") == 1


def test_a_wrong_balance_is_found(sync_ledger: SyncLedger, store: Store) -> None:
    sync_ledger.spend(ask(of_project(max_budget=BUDGET)), 5)
    store.execute("update scopes set spent_nanos = 4")
    (difference,) = sync_ledger.run(sync_ledger.ledger.reconcile())
    assert (difference.scope, difference.spent_nanos, difference.expected_spent_nanos) == (
        "project:web",
        4,
        5,
    )


@pytest.mark.sqlite_only
@pytest.mark.parametrize("query", ["running", "orphans"])
def test_held_rows_are_found_by_index(query: str, store: Store) -> None:
    statement = SQL[query].replace("{scope}", "key_id = 'key_a'")
    with store.elsewhere() as db:
        plan = [row[3] for row in db.execute(f"explain query plan {statement}")]
    read = [step for step in plan if "requests" in step]
    assert read == ["SCAN requests USING INDEX requests_held"]


@pytest.mark.sqlite_only
@pytest.mark.parametrize("rows", [1, 4])
def test_rows_are_completed_by_their_sequence(rows: int, store: Store) -> None:
    statement = with_rows(SQL["complete"], rows, 19)
    with store.elsewhere() as db:
        plan = [row[3] for row in db.execute(f"explain query plan {statement}", [None] * 19 * rows)]
    assert [step for step in plan if "requests" in step] == [
        "SEARCH requests USING INTEGER PRIMARY KEY (rowid=?)"
    ]


@pytest.mark.sqlite_only
def test_requests_that_end_together_are_each_booked(store: Store) -> None:
    """One statement completes many rows; one that the database refuses stays held."""
    held = [ask(request_id=f"req_{number}") for number in range(90)]
    ends = [end(request, number, first_ms=number / 10) for number, request in enumerate(held)]
    ends[7] = ends[7]._replace(first_ms="late")  # type: ignore[arg-type]

    async def use(ledger: Ledger) -> None:
        for request in held:
            await ledger.admit(request)
        await store.writer.barrier()
        for one in [*ends, *ends]:
            ledger.settle(one)

    store.run(use)
    with store.elsewhere() as db:
        rows = db.execute(
            "select request_id, status, cost_nanos, first_ms from requests order by seq"
        ).fetchall()
    expected = [(f"req_{number}", "ok", number, number / 10) for number in range(90)]
    expected[7] = ("req_7", "held", None, None)  # type: ignore[assignment]
    assert rows == expected
