"""Where a budget is headed."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.web.ui.projection import MIN_RATE_SECONDS, Spending, project, rate_since

DAY = 86_400.0


def at(year: int, month: int, day: int) -> float:
    return datetime(year, month, day, tzinfo=UTC).timestamp()


def test_nothing_is_said_in_the_first_hour() -> None:
    budget = Spending(5, 100, 0.0, 30 * DAY, 5)
    assert project(budget, MIN_RATE_SECONDS - 1) is None
    assert project(budget, MIN_RATE_SECONDS) is not None


def test_the_rate_of_the_last_days_is_extended_to_the_end_of_a_leap_month() -> None:
    # 70 USD within the last 7 days are 10 USD a day.
    budget = Spending(100, 300, at(2028, 2, 1), at(2028, 3, 1), 70)
    now = at(2028, 2, 20)
    assert project(budget, now) == (200, None)
    tight = budget._replace(limit=150)
    assert project(tight, now) == (200, at(2028, 2, 25))


def test_the_rate_is_that_of_the_window_if_it_is_younger() -> None:
    assert rate_since(at(2026, 11, 1), at(2026, 11, 3)) == at(2026, 11, 1)
    assert rate_since(at(2026, 11, 1), at(2026, 11, 20)) == at(2026, 11, 13)


def test_a_window_without_an_end_runs_out_but_is_headed_for_nothing() -> None:
    assert project(Spending(50, 100, 0.0, None, 35), 100 * DAY) == (None, 110 * DAY)


def test_without_recent_spending_it_never_runs_out() -> None:
    assert project(Spending(50, 100, 0.0, None, 0), 100 * DAY) == (None, None)
    assert project(Spending(50, 100, 0.0, 101 * DAY, 0), 100 * DAY) == (50, None)


def test_a_used_up_budget_has_run_out_now() -> None:
    found = project(Spending(100, 100, 0.0, 30 * DAY, 0), 10 * DAY)
    assert found == (100, 10 * DAY)


@given(
    *[st.integers(min_value=0, max_value=10**15)] * 3,
    st.floats(min_value=0, max_value=4e9),
    st.floats(min_value=1, max_value=4e7),
    st.floats(min_value=0, max_value=1),
)
def test_it_runs_out_within_the_window_exactly_if_it_is_headed_over_the_limit(
    spent: int, limit: int, recent: int, start: float, length: float, passed: float
) -> None:
    end, now = start + length, start + length * passed
    found = project(Spending(spent, limit, start, end, recent), now)
    if found is None:
        return
    assert found.headed_for is not None
    assert found.headed_for >= spent
    if found.runs_out is not None:
        assert now <= found.runs_out
        assert found.runs_out < end or spent >= limit
    # Rounded to whole nano-USD, so equal amounts say nothing.
    if found.headed_for > limit + 1:
        assert found.runs_out is not None
    if found.headed_for < limit - 1:
        assert found.runs_out is None
