"""The admission in one pass decides as the general one does, for any request and any state of its scopes."""

import math
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Limits, Price, Tariff
from codellama_proxy.limits.admission import AdmissionRequest, ScopeState, decide
from codellama_proxy.limits.rates import UNRATED, Rates, ScopeLimits, refill
from codellama_proxy.limits.usual_admission import usual_decision
from tests.limits.test_budgets import NOW, ask

small = st.integers(0, 40)
levels = st.none() | st.floats(-5, 50, allow_nan=False)
moments = st.sampled_from([NOW - 3600, NOW - 30, NOW - 0.5, NOW, NOW + 0.5, NOW + 3600])
limits = st.builds(
    Limits,
    rpm_limit=st.none() | small,
    tpm_limit=st.none() | small,
    max_parallel_requests=st.none() | st.integers(0, 4),
    max_budget=st.none() | st.sampled_from([0, 1, 30, 100, 5000, 10**12]),
    shadow=st.sampled_from([False, False, False, True]),
)
tariffs = st.none() | st.builds(
    Tariff, st.integers(0, 10**6), st.integers(0, 10**6), st.none() | st.integers(0, 10**7)
)


@dataclass
class Balance:
    """What is known of a scope."""

    rates: Rates
    running: int | None
    spent: int
    held: int


balances = st.builds(
    Balance,
    st.just(UNRATED) | st.builds(Rates, levels, levels, moments),
    st.none() | st.integers(0, 4),
    st.integers(0, 100),
    st.integers(0, 100),
)
scopes = st.lists(st.tuples(limits, balances), max_size=4)


@st.composite
def asks(draw: st.DrawFn) -> dict[str, Any]:
    prices = tuple(draw(st.lists(tariffs, max_size=3)))
    return {
        "prices": prices,
        "bounds": draw(st.just(()) | st.tuples(*[small for _ in prices])),
        "unbounded_tokens": draw(st.just(()) | st.tuples(*[small for _ in prices])),
        "prompt_estimate": draw(small),
        "prompt_bound": draw(small),
        "max_tokens": draw(st.none() | small),
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


@given(asks(), scopes)
@example({}, [(Limits(rpm_limit=1), Balance(UNRATED, None, 0, 0))])
@example({"prices": (Price(1, 1),)}, [(Limits(max_budget=10**9), Balance(UNRATED, None, 5, 6))])
def test_a_usual_decision_is_the_general_one(
    wanted: dict[str, Any], found: list[tuple[Limits, Balance]]
) -> None:
    named = [(ScopeLimits(f"key:{number}", one), balance) for number, (one, balance) in enumerate(found)]
    request = ask(**wanted, scopes=tuple(scope for scope, _ in named))
    known = {scope.id: balance for scope, balance in named}
    usual = usual_decision(request, known)
    if usual is not None:
        assert usual == general(request, known)


def test_requests_with_room_in_every_scope_are_usual() -> None:
    """Otherwise the comparison above would compare nothing."""
    full = Limits(rpm_limit=10, tpm_limit=100, max_parallel_requests=5, max_budget=10**12)
    scope = ScopeLimits("project:web", full)
    request = ask(scopes=(scope,), prices=(Price(10**6, 10**6),), bounds=(7,))
    known = {scope.id: Balance(Rates(5.0, 50.0, NOW - 6), 4, 10, 20)}
    decision = usual_decision(request, known)
    assert decision == general(request, known)
    assert decision is not None
    assert decision.admission.hold_nanos == 7 + 4096
    assert [math.floor(level) for level in decision.rates[0][:2] if level is not None] == [5, 50]
    assert usual_decision(request, {scope.id: Balance(UNRATED, 5, 0, 0)}) is None, "too many run"
