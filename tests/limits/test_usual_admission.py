"""The admission in one pass decides as the general one does, for any request and any state of its scopes."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Limits, Price, Tariff
from codellama_proxy.limits.admission import AdmissionRequest, ScopeState, decide
from codellama_proxy.limits.rates import UNRATED, Levels, Rates, ScopeLimits, refill
from codellama_proxy.limits.usual_admission import usual_decision
from tests.limits.test_budgets import NOW, ask

small = st.integers(0, 40)
amounts = st.sampled_from([0, 1, 30, 100, 2**53 + 1])
levels = st.none() | st.floats(-5, 50, allow_nan=False) | st.sampled_from([0.0, 0.5, 1.0, 10.0, 40.0])
moments = st.sampled_from([NOW - 3600, NOW - 30, NOW - 0.5, NOW, NOW + 0.5, NOW + 1, NOW + 3600])
limits = st.just(Limits()) | st.builds(
    Limits,
    rpm_limit=st.none() | st.sampled_from([0, 1, 40]),
    tpm_limit=st.none() | small,
    max_parallel_requests=st.none() | st.integers(0, 4),
    shadow=st.sampled_from([False, False, False, True]),
)
rooms = st.sampled_from([None, None, -1, 0, 0, 1, 1000, 10**12])
"""What a budget has left after the maximum cost of the request; `None`: there is no budget."""
known_tariffs = st.builds(
    Tariff, st.integers(0, 10**6), st.integers(0, 10**6), st.none() | st.integers(0, 10**7)
)
tariffs = st.sampled_from([False, False, False, True]).flatmap(
    lambda unknown: st.none() if unknown else known_tariffs
)


@dataclass
class Balance:
    """What is known of a scope."""

    rates: Levels
    running: int | None
    spent: int
    held: int


balances = st.builds(
    Balance,
    st.just(UNRATED) | st.builds(Rates, levels, levels, moments),
    st.none() | st.integers(0, 4),
    amounts,
    amounts,
)
scopes = st.lists(st.tuples(limits, rooms, balances), max_size=4)


@st.composite
def asks(draw: st.DrawFn) -> dict[str, Any]:
    prices = tuple(draw(st.lists(tariffs, max_size=3)))
    return {
        "prices": prices,
        "bounds": draw(st.just(()) | st.tuples(*[small for _ in prices])),
        "unbounded_tokens": draw(st.just(()) | st.tuples(*[small for _ in prices])),
        "prompt_estimate": draw(small),
        "prompt_bound": draw(small),
        "max_tokens": draw(st.none() | small | st.just(2**53 + 1)),
        "default_max_tokens": draw(st.sampled_from([0, 10, 4096])),
        "n": draw(st.integers(0, 3)),
        "calls_units": draw(st.sampled_from([0, 10**7])),
        "counts": draw(st.sampled_from([True, True, True, False])),
    }


def general(request: AdmissionRequest, known: dict[str, Balance]) -> Any:
    """`decide`'s decision, or the error it raises."""
    states = [
        ScopeState(
            scope,
            refill(known[scope.id].rates, scope.limits, request.created_at),
            known[scope.id].running or 0,
            known[scope.id].spent,
            known[scope.id].held,
        )
        for scope in request.scopes
    ]
    try:
        return decide(request, states)
    except Exception as error:  # any error: the usual decision must not admit then
        return error


def with_budget(limits: Limits, room: int | None, balance: Balance, cost: int) -> Limits:
    """`limits` with a budget that has `room` left after `cost`."""
    return (
        limits
        if room is None
        else replace(limits, max_budget=max(balance.spent + balance.held + cost + room, 0))
    )


@settings(max_examples=200)
@given(asks(), scopes)
@example({}, [(Limits(rpm_limit=1), None, Balance(UNRATED, None, 0, 0))])
@example({"counts": False}, [(Limits(rpm_limit=5), None, Balance(UNRATED, None, 0, 0))])
@example({"prices": (Price(1, 1),)}, [(Limits(), 10**9, Balance(UNRATED, None, 5, 6))])
@example({"prices": ()}, [(Limits(), 0, Balance(UNRATED, None, 0, 0))])
def test_a_usual_decision_is_the_general_one(
    wanted: dict[str, Any], found: list[tuple[Limits, int | None, Balance]]
) -> None:
    bare = ask(**wanted)
    cost = bare.bound.nanos(bare.wanted_tokens)
    named = [
        (ScopeLimits(f"key:{number}", with_budget(one, room, balance, cost)), balance)
        for number, (one, room, balance) in enumerate(found)
    ]
    request = bare._replace(scopes=tuple(scope for scope, _ in named))
    known = {scope.id: balance for scope, balance in named}
    usual = usual_decision(request, known)
    if usual is not None:
        assert usual == general(request, known)


def test_requests_with_room_in_every_scope_are_usual() -> None:
    """Otherwise the comparison above would compare nothing."""
    full = Limits(rpm_limit=10, tpm_limit=100, max_parallel_requests=5, max_budget=10**12)
    scope = ScopeLimits("project:web", full)
    request = ask(scopes=(scope,), prices=(Price(10**6, 10**6),), bounds=(7,), unbounded_tokens=(3,))
    known = {scope.id: Balance(Rates(5.0, 50.0, NOW - 6), 4, 10, 20)}
    decision = usual_decision(request, known)
    assert decision == general(request, known)
    assert decision is not None
    assert decision.admission.hold_nanos == 7 + 3 + 4096
    assert [math.floor(level) for level in decision.rates[0][:2] if level is not None] == [5, 50]


PRICED = {"prices": (Price(10**6, 10**6),), "bounds": (4,), "max_tokens": 6}
"""Costs 10 nano-USD at most, and needs 10 tokens of a rate."""


@pytest.mark.parametrize(
    ("limited", "balance", "is_usual"),
    [
        (Limits(max_budget=100), Balance(UNRATED, 0, 60, 30), True),
        (Limits(max_budget=100), Balance(UNRATED, 0, 60, 31), False),
        (Limits(max_budget=100), Balance(UNRATED, 0, 61, 30), False),
        (Limits(max_budget=2**53 + 11), Balance(UNRATED, 0, 2**53, 1), True),
        (Limits(max_budget=2**53 + 11), Balance(UNRATED, 0, 2**53, 2), False),
        (Limits(max_budget=0), Balance(UNRATED, 0, 0, 0), False),
        (Limits(max_budget=100, shadow=True), Balance(UNRATED, 0, 0, 0), False),
        (Limits(max_parallel_requests=3), Balance(UNRATED, 2, 0, 0), True),
        (Limits(max_parallel_requests=3), Balance(UNRATED, 3, 0, 0), False),
        (Limits(rpm_limit=60), Balance(Rates(1.0, None, NOW), 0, 0, 0), True),
        (Limits(rpm_limit=60), Balance(Rates(0.5, None, NOW), 0, 0, 0), False),
        (Limits(rpm_limit=60), Balance(Rates(0.5, None, NOW - 0.5), 0, 0, 0), True),
        (Limits(rpm_limit=60), Balance(Rates(5.0, None, NOW + 3600), 0, 0, 0), True),
        (Limits(rpm_limit=60), Balance(Rates(59.0, None, NOW - 6), 0, 0, 0), True),
        (Limits(rpm_limit=0), Balance(UNRATED, 0, 0, 0), False),
        (Limits(tpm_limit=60), Balance(Rates(None, 10.0, NOW), 0, 0, 0), True),
        (Limits(tpm_limit=60), Balance(Rates(None, 9.5, NOW), 0, 0, 0), False),
        (Limits(tpm_limit=9), Balance(UNRATED, 0, 0, 0), False),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_is_usual_up_to_the_last_of_every_limit(
    limited: Limits, balance: Balance, is_usual: bool, is_first: bool
) -> None:
    wide = ScopeLimits("global:", Limits(rpm_limit=1000, tpm_limit=1000, max_budget=10**18))
    tight = ScopeLimits("project:web", limited)
    request = ask(**PRICED, scopes=(tight, wide) if is_first else (wide, tight))
    known = {tight.id: balance, wide.id: Balance(Rates(12.0, 12.0, NOW + 0.5), 0, 0, 0)}
    usual = usual_decision(request, known)
    assert (usual is not None) is is_usual
    assert usual is None or usual == general(request, known)


def test_unpriced_auxiliary_and_forbidden_requests_are_not_usual() -> None:
    scope = ScopeLimits("project:web", Limits(max_budget=10**18))
    known = {scope.id: Balance(UNRATED, 0, 0, 0)}
    assert usual_decision(ask(scopes=(scope,), prices=(None,)), known) is None
    assert usual_decision(ask(scopes=(scope,), counts=False), known) is None
    no_tokens = ScopeLimits(scope.id, Limits(tpm_limit=0))
    assert usual_decision(ask(scopes=(no_tokens,), prompt_estimate=0), known) is None
    cached = usual_decision(ask(scopes=(scope,), prices=()), known)
    assert cached is not None
    assert cached.admission.hold_nanos == 0
