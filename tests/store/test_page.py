"""The ledger's algorithm on balances in memory, without a database."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Limits
from codellama_proxy.core.types import Usage
from codellama_proxy.limits.admission import AdmissionRequest, Extension, LimitExceededError
from codellama_proxy.limits.rates import ScopeLimits, refill
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.ledger.page import Held, Page, scope_ids
from codellama_proxy.store.ledger.rows import is_bookable, is_storable
from codellama_proxy.store.ledger.scope_balance import (
    ScopeBalance,
    WindowSums,
    is_current,
    refresh,
    state,
)
from tests.support.builders import deployment
from tests.support.ledger_fixtures import NOW, ask, end, of_global, of_key, of_project

BUDGET = 12


class Rows:
    """The rows of every scope: so many running ones, and these sums of the window."""

    def __init__(self, running: int = 0, sums: WindowSums = WindowSums(1, 0, 0, 0)) -> None:  # noqa: B008
        self._running = running
        self._sums = sums
        self.summed: list[tuple[float, float, str]] = []

    def running(self, _: str) -> int:
        return self._running

    def first_use(self, _: str) -> float | None:
        return NOW - 3600

    def window_sums(self, _: str, start: float, end: float, day: str) -> WindowSums:
        self.summed.append((start, end, day))
        return self._sums


def balances(
    *scopes: ScopeLimits, rows: Rows | None = None, also: Iterable[str] = ()
) -> dict[str, ScopeBalance]:
    found = {scope.id: ScopeBalance() for scope in scopes} | {name: ScopeBalance() for name in also}
    for scope in scopes:
        refresh(found[scope.id], scope, NOW, rows or Rows())
    return found


def money(balance: ScopeBalance) -> tuple[int, int]:
    return balance.spent, balance.held


def admit(page: Page, request: AdmissionRequest) -> int:
    decision = page.decide(request)
    page.admit(request, scope_ids(request), decision)
    return decision.admission.hold_nanos


def test_a_batch_is_decided_in_order_and_a_refusal_changes_nothing() -> None:
    scope = of_project(max_budget=BUDGET, rpm_limit=9)
    of = balances(scope, also=("global:", "key:key_a"))
    page = Page(of)
    first, second = ask(scope), ask(scope)
    assert [admit(page, first), admit(page, second)] == [5, 5]
    before = money(of[scope.id]), of[scope.id].rates
    with pytest.raises(LimitExceededError):
        page.decide(ask(scope))
    assert (money(of[scope.id]), of[scope.id].rates) == before == ((0, 10), of[scope.id].rates)
    page.settle(Held(1, scope_ids(first), 5, 1), end(first, 1))
    assert money(of[scope.id]) == (1, 5)
    assert admit(page, ask(scope)) == 5


def test_a_decision_alone_changes_no_balance() -> None:
    scope = of_project(max_budget=BUDGET, rpm_limit=9, max_parallel_requests=2)
    of = balances(scope, also=("global:", "key:key_a"))
    before = money(of[scope.id]), of[scope.id].rates, of[scope.id].running
    for _ in range(5):
        Page(of).decide(ask(scope))
    assert (money(of[scope.id]), of[scope.id].rates, of[scope.id].running) == before


def test_an_extension_counts_only_in_windows_that_include_the_request() -> None:
    wide, new = of_global(max_budget=100), of_key(max_budget=3)
    of = balances(wide, also=("project:web",)) | balances(new, rows=Rows(sums=WindowSums(8, 0, 0, 0)))
    page = Page(of)
    held = Held(7, ("global:", "project:web", "key:key_a"), 5, 1)
    more = Extension("req_1", (wide, new), 20, deployment("second"), ())
    assert page.decide_extension(more, held, NOW) == 20
    page.extend(held, 20)
    assert [money(of[name]) for name in held.scopes] == [(0, 20), (0, 0), (0, 0)]
    with pytest.raises(LimitExceededError):
        page.decide_extension(more._replace(nanos=81), held, NOW)


def test_a_balance_is_current_only_with_the_window_of_the_time_and_its_running_requests() -> None:
    scope = of_project(max_budget=BUDGET, budget_duration="day", max_parallel_requests=3)
    balance, rows = ScopeBalance(), Rows(2, WindowSums(4, 3, 2, 1))
    assert not is_current(balance, scope.limits, NOW)
    refresh(balance, scope, NOW, rows)
    assert is_current(balance, scope.limits, NOW)
    found = state(scope, balance, NOW)
    assert (found.running, found.spent_nanos, found.held_nanos) == (2, 4, 2)
    assert not is_current(balance, scope.limits, NOW + DAY)
    assert is_current(balance, scope.limits, NOW - 60), "a clock set back a little opens no window"
    refresh(balance, scope, NOW - 60, rows)
    assert len(rows.summed) == 1
    refresh(balance, scope, NOW + DAY, rows)
    assert len(rows.summed) == 2


def test_a_failed_query_changes_no_balance() -> None:
    class Broken(Rows):
        def window_sums(self, *_: object) -> WindowSums:
            raise OSError("the disk")

    scope = of_project(max_budget=BUDGET, budget_duration="day")
    balance = ScopeBalance()
    with pytest.raises(OSError, match="the disk"):
        refresh(balance, scope, NOW, Broken())
    assert (balance.window, balance.first_seq, balance.changed) == (None, None, False)


numbers = st.integers(0, 50) | st.sampled_from([-1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1])


@given(st.none() | numbers, st.none() | numbers, st.none() | st.builds(Usage, *[numbers] * 5))
def test_what_the_databases_cannot_store_is_not_booked(
    cost: int | None, saved: int | None, usage: Usage | None
) -> None:
    found = end("req_1", cost, saved_nanos=saved, usage=usage)
    every = [cost or 0, saved or 0, *(usage or ())[:5]]
    assert is_bookable(found) == all(-(2**63) <= number < 2**63 for number in every)
    assert is_storable((*every, None, "text", True)) == is_bookable(found)


levels = st.none() | st.floats(-5, 50, allow_nan=False) | st.sampled_from([0.0, 39.5, 40.0])
limits = st.none() | st.sampled_from([0, 1, 40])


@given(levels, levels, st.sampled_from([NOW - 60, NOW - 1, NOW, NOW + 5]), limits, limits)
def test_a_balance_is_full_if_its_rates_refilled_to_their_limits(
    rpm: float | None, tpm: float | None, at: float, rpm_limit: int | None, tpm_limit: int | None
) -> None:
    balance = ScopeBalance()
    balance.rates, balance.limits = (rpm, tpm, at), Limits(rpm_limit, tpm_limit)
    assert balance.is_full(NOW) == (refill(balance.rates, balance.limits, NOW)[:2] == (rpm_limit, tpm_limit))
