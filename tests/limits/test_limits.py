"""Limits as pure functions: buckets never give more than they hold, refusals never lie about when."""

import string
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import (
    Cache,
    Guardrail,
    Limits,
    Project,
    Routing,
    Server,
    Snapshot,
    Tracking,
)
from codellama_proxy.core.types import Key
from codellama_proxy.limits import rate_headers
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.rates import Rate, Rates, Refusal, ScopeLimits
from tests.support.cases import each

NOW = 1_795_000_000.0

steps = st.lists(st.floats(0, 30, allow_nan=False), max_size=60)


def scope(**limited: object) -> ScopeLimits:
    return ScopeLimits("key:key_a", Limits(**limited))  # type: ignore[arg-type]


def snapshot(projects: dict[str, Project] | None = None, **limited: Limits) -> Snapshot:
    table = {kind: limited.get(kind, Limits()) for kind in ("global", "project", "key", "user")}
    return Snapshot(
        "digest",
        {},
        (),
        Guardrail(),
        Routing(),
        table,  # type: ignore[arg-type]
        projects or {},
        Cache(),
        Tracking(),
        Server(),
        auth_required=True,
        metrics_public=False,
    )


def admitted(one: ScopeLimits, at: list[float], tokens: int = 1) -> list[bool]:
    """Who of those who come at these times is let in."""
    rates, passed = Rates(), []
    for now in at:
        rates = limits.refill(rates, one.limits, now)
        passed.append(not limits.check(one, rates, tokens, 0))
        if passed[-1]:
            rates = limits.take(rates, tokens)
    return passed


def times(gaps: list[float]) -> list[float]:
    now, at = NOW, []
    for gap in gaps:
        now += gap
        at.append(now)
    return at


# --- rates -------------------------------------------------------------------------------------------------


@given(st.integers(1, 1000), steps)
def test_a_bucket_admits_at_most_its_capacity_plus_refill(limit: int, gaps: list[float]) -> None:
    at = times(gaps)
    passed = admitted(scope(rpm_limit=limit), at)
    for first in range(len(at)):
        for last in range(first, len(at)):
            allowed = limit + (at[last] - at[first]) * limit / 60 + 1e-3
            assert sum(passed[first : last + 1]) <= allowed


def test_a_full_bucket_allows_a_burst_then_one_request_per_interval() -> None:
    at = [NOW] * 61 + [NOW + second for second in range(1, 6)]
    passed = admitted(scope(rpm_limit=60), at)
    assert passed == [True] * 60 + [False] + [True] * 5


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.floats(-100_000, 100_000))
def test_a_request_is_admitted_after_its_retry_after_and_not_before(
    limit: int, need: int, level: float
) -> None:
    need = min(need, limit)
    one = scope(tpm_limit=limit)
    rates = Rates(None, min(level, float(limit)), NOW)
    refused = limits.check(one, rates, need, 0)
    if not refused:
        return
    (refusal,) = refused
    assert refusal.retry_after is not None
    later = limits.refill(rates, one.limits, NOW + refusal.retry_after)
    assert limits.check(one, later, need, 0) == ()
    earlier = limits.refill(rates, one.limits, NOW + refusal.retry_after * 0.99 - 0.001)
    assert limits.check(one, earlier, need, 0) != ()


def test_a_limit_of_zero_refuses_everything() -> None:
    for field in ("rpm_limit", "tpm_limit", "max_parallel_requests"):
        one = scope(**{field: 0})
        (refusal,) = limits.check(one, limits.refill(Rates(), one.limits, NOW), 1, 0)
        assert refusal.retry_after == 60


def test_without_a_limit_everything_is_admitted() -> None:
    assert limits.check(scope(), limits.refill(Rates(), Limits(), NOW), 10**12, 10**6) == ()


def test_a_request_larger_than_the_bucket_is_refused_permanently() -> None:
    one = scope(tpm_limit=100)
    (refusal,) = limits.check(one, limits.refill(Rates(), one.limits, NOW), 101, 0)
    assert (refusal.code, refusal.type) == ("rate_limit_exceeded", "tokens")
    assert "never" in refusal.message
    assert limits.check(one, limits.refill(Rates(), one.limits, NOW), 100, 0) == ()


def test_a_negative_level_is_refilled_before_anything_is_admitted() -> None:
    one = scope(tpm_limit=600)
    indebted = Rates(None, -600.0, NOW)
    (refusal,) = limits.check(one, limits.refill(indebted, one.limits, NOW), 10, 0)
    assert refusal.retry_after == pytest.approx(61)


@given(st.floats(1.1, 10**9), st.integers(1, 1000))
def test_a_clock_set_back_does_not_fill_a_bucket_or_lock_it_beyond_a_minute(back: float, limit: int) -> None:
    one = scope(rpm_limit=limit)
    empty = Rates(0.0, None, NOW)
    before = limits.refill(empty, one.limits, NOW - back)
    assert before.rpm_level == 0
    after = limits.refill(before, one.limits, NOW - back + 60.001)
    assert limits.check(one, after, 1, 0) == ()


@given(st.floats(0, 10**9), st.integers(1, 1000))
def test_a_clock_set_forward_adds_at_most_one_full_bucket(forward: float, limit: int) -> None:
    later = limits.refill(Rates(0.0, None, NOW), Limits(rpm_limit=limit), NOW + forward)
    assert later.rpm_level is not None
    assert later.rpm_level <= limit


def test_requests_out_of_order_do_not_refill_twice() -> None:
    one = scope(rpm_limit=60_000)
    rates = Rates(0.0, None, NOW)
    rates = limits.refill(rates, one.limits, NOW - 0.5)
    assert rates == Rates(0.0, None, NOW)
    assert limits.refill(rates, one.limits, NOW + 0.001).rpm_level == pytest.approx(1, rel=1e-3)


def test_raising_a_limit_adds_no_burst_and_lowering_it_reduces_the_level() -> None:
    rates = Rates(2.0, None, NOW)
    assert limits.refill(rates, Limits(rpm_limit=100), NOW).rpm_level == 2
    assert limits.refill(rates, Limits(rpm_limit=1), NOW).rpm_level == 1


def test_a_shadow_limit_that_would_refuse_consumes_nothing() -> None:
    assert limits.take(Rates(5.0, 50.0, NOW), 10, ["requests"]) == Rates(5.0, 40.0, NOW)
    assert limits.take(Rates(5.0, 50.0, NOW), 10, ["tokens"]) == Rates(4.0, 50.0, NOW)


def test_the_reported_refusal_is_a_budget_else_the_longest_wait() -> None:
    def refusal(wait: float | None) -> Refusal:
        return Refusal("rate_limit_exceeded", "requests", "m", wait, "key", "requests")

    short, long, budget = refusal(1.0), refusal(30.0), refusal(None)
    assert limits.worst([short, long]) is long
    assert limits.worst([short, budget, long]) is budget
    assert limits.worst([]) is None


# --- scopes ------------------------------------------------------------------------------------------------


def test_only_scopes_with_a_limit_are_checked() -> None:
    found = limits.scopes_of(snapshot(key=Limits(rpm_limit=1)), Project("web"), Key("key_a", "web"), "bob")
    assert [(one.kind, one.name) for one in found] == [("key", "key_a")]
    assert limits.scopes_of(snapshot(), Project("web"), Key("key_a", "web"), "bob") == ()


def test_a_request_without_key_or_user_belongs_to_global_and_project() -> None:
    every = Limits(rpm_limit=1)
    settings = snapshot(**{"global": every, "project": every, "key": every, "user": every})
    found = limits.scopes_of(settings, settings.project("anonymous"), None, None)
    assert [one.id for one in found] == ["global:", "project:anonymous"]
    assert limits.scope_ids("anonymous", None, None) == ("global:", "project:anonymous")


def test_a_keys_own_limits_replace_the_default_ones_field_by_field() -> None:
    own = Limits(rpm_limit=None, tpm_limit=5, given=frozenset({"rpm_limit", "tpm_limit"}))
    key = Key("key_a", "web", limits=own)
    defaults = Limits(rpm_limit=60, max_parallel_requests=3, given=frozenset({"rpm_limit"}))
    (found,) = limits.scopes_of(snapshot(key=defaults), Project("web"), key, None)
    assert found.limits.rpm_limit is None
    assert found.limits.tpm_limit == 5
    assert found.limits.max_parallel_requests == 3


def test_a_projects_limits_are_read_from_the_snapshot() -> None:
    projects = {"web": Project("web", limits=Limits(rpm_limit=7))}
    (found,) = limits.scopes_of(snapshot(projects), projects["web"], None, None)
    assert found.limits.rpm_limit == 7


@given(st.text(max_size=400), st.text(max_size=400))
@example("a", "a\x1fb")
@example("x" * 300, "x" * 301)
def test_two_users_never_share_a_scope(one: str, other: str) -> None:
    assert (limits.user_scope("web", one) == limits.user_scope("web", other)) == (one == other)


@given(st.text(max_size=2000))
def test_a_long_user_id_is_shortened_deterministically(user: str) -> None:
    name = limits.user_name(user)
    assert len(name) <= 256
    assert limits.user_name(name) == name


names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)


@given(names, names, st.text(max_size=50), st.text(max_size=50))
def test_two_projects_never_share_a_user(one: str, other: str, first: str, second: str) -> None:
    same = limits.user_scope(one, first) == limits.user_scope(other, second)
    assert same == ((one, first) == (other, second))


# --- headers -----------------------------------------------------------------------------------------------


def test_headers_show_the_tightest_scope_of_each_kind() -> None:
    wide = ScopeLimits("global:", Limits(rpm_limit=600, tpm_limit=100))
    narrow = ScopeLimits("key:a", Limits(rpm_limit=60))
    requests, tokens = rate_headers.rates_left(
        [wide.limits, narrow.limits], [Rates(500.0, 40.0, NOW), Rates(30.0, None, NOW)]
    )
    assert requests == Rate(60, 30, 30.0)
    assert tokens == Rate(100, 40, 36.0)
    assert rate_headers.headers(requests, tokens) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "30",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "40",
        "x-ratelimit-reset-tokens": "36s",
    }


def test_without_limits_there_are_no_headers() -> None:
    assert rate_headers.headers(*rate_headers.rates_left([Limits()], [Rates()])) == {}


def test_headers_do_not_show_shadow_limits() -> None:
    assert rate_headers.rates_left([Limits(rpm_limit=1, shadow=True)], [Rates(1.0, None, NOW)]) == (
        None,
        None,
    )


def test_the_remaining_amount_of_a_negative_level_is_0() -> None:
    (_, tokens) = rate_headers.rates_left([Limits(tpm_limit=60)], [Rates(None, -60.0, NOW)])
    assert tokens == Rate(60, 0, 120.0)


@each(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0004, "1ms"),
        (0.12, "120ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (1.001, "2s"),
        (59.5, "1m0s"),
        (360, "6m0s"),
        (3661, "1h1m1s"),
    ],
)
def test_resets_have_openais_format(seconds: float, text: str) -> None:
    assert limits.reset_text(seconds) == text


def test_reset_times_are_monotonic() -> None:
    def seconds(text: str) -> float:
        if text.endswith("ms"):
            return int(text[:-2]) / 1000
        total, number = 0.0, ""
        for char in text:
            if char.isdigit():
                number += char
            else:
                total += int(number) * {"h": 3600, "m": 60, "s": 1}[char]
                number = ""
        return total

    for earlier, later in pairwise(step * 0.0371 for step in range(200_000)):
        assert seconds(limits.reset_text(earlier)) <= seconds(limits.reset_text(later))
        if later > 100:
            break
    assert seconds(limits.reset_text(7322.2)) == 7323
