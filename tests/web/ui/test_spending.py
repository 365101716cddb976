"""Ranges, figures and series of the overview add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.overviews import Sum
from codellama_proxy.web.ui.charts import MAX_SERIES, OTHER
from codellama_proxy.web.ui.ranges import RANGES, label, range_of, tick
from codellama_proxy.web.ui.spending import (
    amount,
    chart,
    median,
    medians,
    split,
    split_with_rest,
    totals,
    within,
)

NOW = 1_795_361_400.0  # 2026-11-22T15:30:00Z, a Sunday
WEEK = range_of("7d", NOW)

sums = st.builds(
    lambda model, status, hours, requests, cost: Sum(
        {"model": model, "status": status, "hour": WEEK.start + hours * HOUR}, requests, 1, 2, cost, 3, 0
    ),
    st.sampled_from([None, *(f"model {number}" for number in range(12))]),
    st.sampled_from(["ok", "error", "cancelled", "held"]),
    st.integers(-3, 170),
    st.integers(0, 50),
    st.integers(0, 10**12),
)


@given(st.sampled_from(sorted(RANGES)), st.floats(0, 4e9))
def test_a_range_has_whole_columns_and_contains_now(name: str, now: float) -> None:
    found = range_of(name, now)
    assert found.start % found.step == found.end % found.step == 0
    assert found.end - found.step <= now < found.end
    assert found.end - found.start == RANGES[name][0]
    assert len(found.starts) == RANGES[name][0] // found.step
    assert found.before == (found.start - RANGES[name][0], found.start)


def test_an_unknown_range_is_the_usual_one() -> None:
    assert range_of("9y", NOW) == range_of(None, NOW) == WEEK
    assert range_of("7d", NOW, DAY).step == DAY


@pytest.mark.parametrize(
    ("start", "step", "text", "under"),
    [
        (1_795_363_200, HOUR, "Sun 22 Nov, 16:00 to 17:00 UTC", "16:00"),
        (1_795_366_800, HOUR, "Sun 22 Nov, 17:00 to 18:00 UTC", ""),
        (1_795_305_600, 3 * HOUR, "Sun 22 Nov, 00:00 to 03:00 UTC", "22 Nov"),
        (1_795_316_400, 3 * HOUR, "Sun 22 Nov, 03:00 to 06:00 UTC", ""),
        (1_795_305_600, DAY, "Sun 22 Nov", ""),
    ],
)
def test_columns_are_named(start: int, step: int, text: str, under: str) -> None:
    assert label(start, step) == text
    assert tick(start, step) == under


@given(st.lists(sums, max_size=40), st.sampled_from(["spend", "requests", "tokens", "failures"]))
def test_series_and_columns_add_up(groups: list[Sum], show: str) -> None:
    whole = sum(amount(show, one) for one in groups)
    found = split(groups, "model", show, WEEK, str)
    assert sum(found.totals) == whole
    assert sum(map(sum, found.columns)) == whole
    assert len(found.names) == len(set(found.names)) <= MAX_SERIES + 1
    named = [value for name, value in zip(found.names, found.totals, strict=True) if name != OTHER]
    assert named == sorted(named, reverse=True)
    drawn = chart(found, WEEK, NOW, lambda start, end: f"{start}-{end}")
    assert len(drawn.columns) == len(WEEK.starts)
    assert [column.unfinished for column in drawn.columns] == [False] * 55 + [True]
    assert sum(sum(column.values) for column in drawn.columns) == whole


@given(
    st.lists(sums, max_size=40),
    st.sampled_from(["spend", "requests", "tokens", "failures"]),
    st.sets(st.integers(0, 11), max_size=MAX_SERIES),
)
def test_the_largest_groups_and_the_rest_add_up(groups: list[Sum], show: str, largest: set[int]) -> None:
    named = {f"model {number}" for number in largest}
    found = split_with_rest(
        [one for one in groups if one.groups["model"] in named], groups, "model", show, WEEK, str
    )
    assert sum(found.totals) == sum(map(sum, found.columns)) == sum(amount(show, one) for one in groups)
    assert set(found.names) <= named | {OTHER}


@given(st.lists(sums, max_size=40))
def test_totals_by_column_add_up(groups: list[Sum]) -> None:
    found = totals(groups, WEEK)
    assert sum(found.spend) == sum(one.cost_nanos for one in groups)
    assert sum(found.requests) == sum(one.requests for one in groups)
    assert sum(found.failures) == sum(one.requests for one in groups if one.groups["status"] == "error")
    assert sum(found.tokens) == 3 * len(groups)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_quantiles_are_values_in_order(values: list[float]) -> None:
    half, most = median(values), within(values, 0.95)
    assert half in values
    assert most in values
    assert half is not None
    assert most is not None
    assert half <= most
    assert sum(value <= most for value in values) >= 0.95 * len(values) - 1
    course = medians(values)
    assert 0 < len(course) <= 28
    assert set(course) <= set(values)


def test_nothing_has_no_quantiles() -> None:
    assert median([]) is None
    assert within([], 0.95) is None
    assert medians([]) == []
