"""Budgets as pure functions: bounds that hold, windows that turn once, decisions that take all or nothing."""

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.load import load
from codellama_proxy.config.problems import ConfigError
from codellama_proxy.core import money
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.core.types import Usage
from codellama_proxy.limits import budgets
from codellama_proxy.limits.admission import AdmissionRequest, LimitExceededError, ScopeState, decide
from codellama_proxy.limits.rates import Rates, ScopeLimits
from codellama_proxy.limits.windows import DAY, FOR_EVER, Window, is_rolling, turned, window
from codellama_proxy.pricing.cost import cost
from codellama_proxy.store import key_fields as key_values
from tests.support.builders import deployment
from tests.support.cases import each

NOW = datetime(2026, 11, 22, 15, 30, tzinfo=UTC).timestamp()
PRICE = Price(200_000_000, 600_000_000)

moments = st.floats(0, 4_000_000_000, allow_nan=False)
durations = st.sampled_from([None, "hour", "day", "week", "month", "5h", "7d"])
units = st.integers(0, 10**12)
prices = st.builds(Price, units, units, st.none() | units, st.none() | units)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def ask(**given: Any) -> AdmissionRequest:
    values: dict[str, Any] = {
        "request_id": "req_1",
        "created_at": NOW,
        "project": "web",
        "key": None,
        "user": None,
        "endpoint": "/chat/completions",
        "model_requested": "codellama",
        "stream": False,
        "config": "digest",
        "scopes": (),
        "prompt_estimate": 10,
        "prompt_bound": 1000,
        "max_tokens": None,
        "default_max_tokens": 4096,
        "n": 1,
        "prices": (PRICE,),
    }
    return AdmissionRequest(**values | given)


def standing(kind: str = "project:web", spent: int = 0, held: int = 0, **limited: Any) -> ScopeState:
    return ScopeState(ScopeLimits(kind, Limits(**limited)), Rates(), 0, spent, held, None)


# --- windows -----------------------------------------------------------------------------------------------


@given(durations, moments, moments)
def test_a_window_contains_the_given_moment(duration: str | None, now: float, anchor: float) -> None:
    assert window(duration, now, anchor).contains(now)


@given(durations.filter(bool), moments)
def test_windows_have_no_gaps_or_overlaps(duration: str, now: float) -> None:
    first = window(duration, now, 1000.0)
    assert first.end is not None
    second = window(duration, first.end, first.start)
    assert second.start == pytest.approx(first.end)
    assert not first.contains(second.start)


@pytest.mark.parametrize(
    ("duration", "now", "start", "end"),
    [
        ("hour", "2026-11-22T15:59:59", "2026-11-22T15:00:00", "2026-11-22T16:00:00"),
        ("day", "2026-11-22T00:00:00", "2026-11-22T00:00:00", "2026-11-23T00:00:00"),
        ("week", "2026-11-22T23:59:59", "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
        ("week", "2026-11-23T00:00:00", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month", "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_calendar_windows_start_in_utc(duration: str, now: str, start: str, end: str) -> None:
    assert window(duration, at(now), 0.0) == Window(at(start), at(end))


def test_a_rolling_window_starts_at_the_first_use() -> None:
    assert window("5h", NOW + 5 * 3600 + 1, NOW) == Window(NOW + 5 * 3600, NOW + 10 * 3600)
    assert is_rolling("30d")
    assert not is_rolling("day")
    assert not is_rolling(None)


MODEL = "models: [{name: m, provider: mock}]\n"
GOOD = ["hour", "day", "week", "month", "1h", "24h", "20000h", "999999d"]
BAD = ["", "0h", "07d", "-1d", "1m", "30s", "1y", "5M", "1000000h", "day ", "Day", "٣d", "1.5h", "1h\n"]


@each("duration", [*GOOD, *BAD])
def test_every_interface_accepts_the_same_durations(duration: str) -> None:
    good = duration in GOOD

    def by_file() -> None:
        text = MODEL + f"limits: {{global: {{max_budget: 1, budget_duration: {json.dumps(duration)}}}}}\n"
        load(text.encode(), {}, implemented=frozenset({"mock"}))

    def by_key() -> None:
        key_values.budget_duration("budget_duration", duration)

    def by_window() -> None:
        assert window(duration, NOW, NOW).contains(NOW)

    for entrance, refusal in ((by_file, ConfigError), (by_key, ProxyError), (by_window, ValueError)):
        with nullcontext() if good else pytest.raises(refusal):
            entrance()


def test_an_unknown_duration_is_an_error() -> None:
    for nonsense in ("fortnight", "0h", "-1d", "1m", ""):
        with pytest.raises(ValueError, match="not a budget duration"):
            window(nonsense, NOW, NOW)


@given(durations, moments, moments)
def test_a_clock_set_back_reopens_no_earlier_window(
    duration: str | None, first: float, second: float
) -> None:
    opened = window(duration, first, 0.0)
    after = turned(opened, duration, second)
    if opened.end is None or second >= opened.start:
        assert after.contains(second)
    elif opened.start - second <= opened.end - opened.start:
        assert after is opened
    else:
        assert after.contains(second)


def test_a_clock_set_back_by_a_year_does_not_lock_a_scope_for_a_year() -> None:
    ahead = window("day", NOW + 365 * DAY, 0.0)
    assert turned(ahead, "day", NOW) == window("day", NOW, 0.0)


# --- bounds ------------------------------------------------------------------------------------------------


@given(
    st.lists(prices, min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 10),
    st.data(),
)
def test_an_answer_within_its_limits_never_costs_more_than_the_hold(
    candidates: list[Price], prompt_bound: int, max_tokens: int, n: int, data: st.DataObject
) -> None:
    prompt = data.draw(st.integers(0, prompt_bound))
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    usage = Usage(prompt, data.draw(st.integers(0, max_tokens * n)), cached, written)
    hold = budgets.bound(candidates, [prompt_bound] * len(candidates), n).nanos(max_tokens)
    assert cost(usage, data.draw(st.sampled_from(candidates))) <= hold


@given(
    st.lists(prices, min_size=1, max_size=3), st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 10**15)
)
def test_the_clamped_max_tokens_is_the_largest_that_fits(
    candidates: list[Price], prompt_bound: int, n: int, headroom: int
) -> None:
    cost_bound = budgets.bound(candidates, [prompt_bound] * len(candidates), n)
    fits = cost_bound.tokens(headroom)
    if fits is None:
        assert cost_bound.nanos(10**12) <= headroom
    elif fits >= 0:
        assert cost_bound.nanos(fits) <= headroom < cost_bound.nanos(fits + 1)
    else:
        assert cost_bound.nanos(0) > headroom


@given(st.integers(0, 10**5), st.integers(-(10**12), 10**12))
def test_a_clamped_max_tokens_is_at_least_the_minimum(wanted: int, headroom: int) -> None:
    allowed = budgets.fit(budgets.bound([PRICE], [10], 1), wanted, headroom)
    assert allowed is None or min(wanted, budgets.MIN_TOKENS) <= allowed <= wanted


# --- decisions ---------------------------------------------------------------------------------------------


def test_without_a_budget_nothing_is_held_and_no_max_tokens_added() -> None:
    admission = decide(ask(prices=(None,)), [standing(rpm_limit=5)]).admission
    assert (admission.hold_nanos, admission.max_tokens, admission.clamped) == (0, None, False)


def test_under_a_budget_the_models_maximum_is_held_and_sent() -> None:
    admission = decide(ask(), [standing(max_budget=10**12)]).admission
    assert admission.max_tokens == 4096
    assert admission.hold_nanos == -(-(1000 * 200_000_000 + 4096 * 600_000_000) // 10**6)


def test_a_clients_max_tokens_is_unchanged_if_it_fits() -> None:
    admission = decide(ask(max_tokens=100), [standing(max_budget=10**12)]).admission
    assert (admission.max_tokens, admission.clamped) == (None, False)


def test_max_tokens_is_clamped_to_the_tightest_budget() -> None:
    roomy, tight = (
        standing("global:", max_budget=10**12),
        standing(spent=400_000, held=100_000, max_budget=10**6),
    )
    admission = decide(ask(max_tokens=4000), [roomy, tight]).admission
    assert admission.clamped
    assert admission.max_tokens == (500_000 - 200_000) // 600
    assert admission.hold_nanos <= 500_000


def test_a_budget_for_fewer_than_16_tokens_refuses() -> None:
    enough = 200_000 + 16 * 600
    assert decide(ask(), [standing(max_budget=enough)]).admission.max_tokens == 16
    with pytest.raises(LimitExceededError) as refused:
        decide(ask(), [standing(max_budget=enough - 1)])
    error = refused.value
    assert (error.status, error.code, error.type) == (429, "insufficient_quota", "insufficient_quota")
    assert error.wire_headers()["x-should-retry"] == "false"


def test_a_request_for_fewer_than_16_tokens_is_allowed() -> None:
    admission = decide(ask(max_tokens=2), [standing(max_budget=200_000 + 2 * 600)]).admission
    assert (admission.max_tokens, admission.clamped) == (None, False)


def test_a_refusal_names_scope_limit_spent_and_reset() -> None:
    tight = standing(spent=1_250_000_000, max_budget=1_250_000_000)._replace(resets_at=at("2026-12-01"))
    with pytest.raises(LimitExceededError) as refused:
        decide(ask(), [tight])
    assert refused.value.message == (
        "Budget exceeded for project web: limit $1.25, spent $1.25; it resets at 2026-12-01T00:00:00Z. "
        "The request could have cost up to $0.0026576."
    )


def test_an_unpriced_candidate_is_refused_by_name_under_a_budget() -> None:
    assert decide(ask(prices=(PRICE, None)), [standing(max_budget=10**12)])
    wish = ask(prices=(None, None), deployment=deployment("mystery"))
    with pytest.raises(ProxyError) as refused:
        decide(wish, [standing(max_budget=10**12)])
    assert (refused.value.status, refused.value.code) == (400, "model_not_priced")
    assert "`mystery`" in refused.value.message


def test_an_unpriced_candidate_passes_a_shadow_budget() -> None:
    assert decide(ask(prices=(None,)), [standing(max_budget=10**12, shadow=True)]).admission.hold_nanos == 0


def test_a_zero_budget_refuses_free_models_too() -> None:
    with pytest.raises(LimitExceededError):
        decide(ask(prices=(Price(0, 0),)), [standing(max_budget=0)])


def test_a_free_request_passes_an_exhausted_budget() -> None:
    empty = standing(spent=10, max_budget=10)
    admission = decide(ask(prices=(Price(0, 0),)), [empty]).admission
    assert (admission.hold_nanos, admission.clamped) == (0, False)
    assert decide(ask(prices=()), [empty]).admission.hold_nanos == 0


def test_an_embedding_is_held_at_its_input_and_never_clamped() -> None:
    wish = ask(default_max_tokens=0)
    assert decide(wish, [standing(max_budget=200_000)]).admission.max_tokens is None
    with pytest.raises(LimitExceededError):
        decide(wish, [standing(max_budget=199_999)])


def test_the_hold_covers_every_choice() -> None:
    one = decide(ask(max_tokens=100, n=1), [standing(max_budget=10**12)]).admission.hold_nanos
    five = decide(ask(max_tokens=100, n=5), [standing(max_budget=10**12)]).admission.hold_nanos
    assert five - one == 4 * 100 * 600


def test_the_hold_is_that_of_the_most_expensive_candidate() -> None:
    dear = replace(PRICE, output=6_000_000_000)
    wish = ask(max_tokens=100, prices=(PRICE, dear))
    assert decide(wish, [standing(max_budget=10**12)]).admission.hold_nanos == 200_000 + 600_000


def test_a_shadow_budget_only_reports_what_it_would_refuse() -> None:
    shadow = ScopeState(
        ScopeLimits("key:a", Limits(rpm_limit=1, max_budget=5, shadow=True)), Rates(0.0, None, NOW), 0, 5
    )
    decision = decide(ask(), [shadow])
    assert {refusal.kind for refusal in decision.admission.shadowed} == {"requests", "budget"}
    assert (decision.admission.max_tokens, decision.admission.hold_nanos) == (None, 0)
    assert list(decision.rates) == [Rates(0.0, None, NOW)]


def test_a_shadow_budget_beside_a_budget_reports_the_hold_that_does_not_fit() -> None:
    admission = decide(
        ask(max_tokens=100), [standing(max_budget=10**12), standing("key:a", max_budget=5, shadow=True)]
    ).admission
    assert [refusal.kind for refusal in admission.shadowed] == ["budget"]
    assert admission.hold_nanos == 260_000


def test_a_refusal_in_one_scope_refuses_the_request() -> None:
    empty = ScopeState(ScopeLimits("key:a", Limits(rpm_limit=1)), Rates(0.0, None, NOW))
    with pytest.raises(LimitExceededError) as refused:
        decide(ask(), [standing(rpm_limit=100)._replace(rates=Rates(100.0, None, NOW)), empty])
    assert refused.value.refusal.scope == "key"
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("nanos", "text"), [(0, "$0.00"), (1, "$0.000000001"), (1_250_000_000, "$1.25"), (-500_000_000, "-$0.50")]
)
def test_amounts_are_shown_exactly(nanos: int, text: str) -> None:
    assert money.dollars(nanos) == text


def test_a_refusal_without_reset_says_so() -> None:
    refusal = budgets.over_budget(ScopeLimits("global:", Limits(max_budget=1)), 1, 2, None)
    assert "never resets" in refusal.message
    assert "held by running requests" in refusal.message


def test_an_unlimited_window_has_no_end() -> None:
    assert FOR_EVER.contains(NOW + timedelta(days=10**5).total_seconds())
