"""The walk along a chain: where a request goes next, how long it waits, when it gives up."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import CODES
from codellama_proxy.core.snapshot import Deployment, Routing
from codellama_proxy.core.types import Attempt, Failure, FailureClass
from codellama_proxy.failures.classify import CODE_OF_CLASS
from codellama_proxy.routing.cooldown import Cooling
from codellama_proxy.routing.retries import GiveUp, Try, final_error, next_step
from tests.support.builders import attempt, deployment, failure
from tests.support.cases import each

A, B, C = deployment("a"), deployment("b"), deployment("c")
CLASSES = [cls for cls in get_args(FailureClass) if cls != "client_left"]


def half() -> float:
    return 0.5


# --- the walk ------------------------------------------------------------------------------------------------


@st.composite
def routings(draw: Any) -> Routing:
    return Routing(
        max_attempts=draw(st.integers(1, 7)),
        retries=draw(st.integers(0, 3)),
        deadline=draw(st.floats(1, 600)),
        max_retry_after=draw(st.floats(0, 10)),
        fallback_on=draw(st.frozensets(st.sampled_from(["context_length", "content_filter"]))),
    )


failures = st.builds(
    Failure,
    st.sampled_from(CLASSES),
    reason=st.sampled_from(["http_500", "context_length", "content_filter"]),
    retry_after=st.none() | st.floats(0, 20),
)


@st.composite
def attempt_sequences(draw: Any) -> tuple[list[Deployment], Routing, list[tuple[Try, Failure]], GiveUp]:
    """A request whose every attempt fails, played to its end on a clock of its own."""
    names = draw(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=4, unique=True)
    )
    chain = [deployment(name, number) for name, number in sorted(names)]
    routing = draw(routings())
    elapsed = 0.0
    attempts: list[Attempt] = []
    taken: list[tuple[Try, Failure]] = []
    while True:
        step = next_step(chain, attempts, elapsed, routing, lambda: draw(st.floats(0, 1, exclude_max=True)))
        if isinstance(step, GiveUp):
            return chain, routing, taken, step
        assert len(attempts) < routing.max_attempts, "one attempt too many"
        assert step.delay >= 0
        assert step.budget > 0, "no sleep that leads nowhere"
        assert elapsed + step.delay + step.budget <= routing.deadline * (1 + 1e-9), "past the deadline"
        why = draw(failures)
        taken.append((step, why))
        attempts.append(Attempt(step.deployment.id, why, 1.0))
        elapsed += step.delay + step.budget * draw(st.floats(0, 1))


AttemptSequence = tuple[list[Deployment], Routing, list[tuple[Try, Failure]], GiveUp]


def histories(sequence: AttemptSequence) -> Iterator[tuple[Try, Sequence[tuple[Try, Failure]]]]:
    """Each step with what had happened before it."""
    steps = sequence[2]
    return ((step, steps[:at]) for at, (step, _) in enumerate(steps))


@given(attempt_sequences())
def test_only_transient_failures_are_retried_while_an_untried_deployment_is_left(
    sequence: AttemptSequence,
) -> None:
    """And then only where no fresh deployment of the same name is left."""
    chain = sequence[0]
    for step, before in histories(sequence):
        tried = {earlier.deployment.id for earlier, _ in before}
        if step.deployment.id not in tried:
            assert step.delay == 0
        elif tried != {d.id for d in chain}:
            last, why = before[-1]
            assert why.cls in ("transient", "disguised")
            assert step.deployment.name == last.deployment.name
            assert tried >= {d.id for d in chain if d.name == step.deployment.name}


@given(attempt_sequences())
def test_a_model_is_retried_up_to_its_limit_before_the_next_model(sequence: AttemptSequence) -> None:
    chain, routing, _, _ = sequence
    for step, before in histories(sequence):
        if not before or step.deployment.name == before[-1][0].deployment.name:
            continue
        last, why = before[-1]
        name = last.deployment.name
        ids = [earlier.deployment.id for earlier, _ in before if earlier.deployment.name == name]
        first_time = step.deployment.id not in {earlier.deployment.id for earlier, _ in before}
        if why.cls in ("transient", "disguised") and first_time and step.budget > 2 * routing.backoff_max:
            assert set(ids) == {d.id for d in chain if d.name == name}
            assert len(ids) - len(set(ids)) >= routing.retries


@given(attempt_sequences())
def test_a_client_error_ends_the_attempts_unless_fallback_on_allows_it(sequence: AttemptSequence) -> None:
    _, routing, steps, _ = sequence
    for _, why in steps[:-1]:
        assert why.cls != "caller" or why.reason in routing.fallback_on


@given(attempt_sequences())
def test_only_transient_failures_are_retried_on_the_same_deployment(sequence: AttemptSequence) -> None:
    _, routing, _, _ = sequence
    for step, before in histories(sequence):
        here = [why for earlier, why in before if earlier.deployment == step.deployment]
        alike = [
            earlier.deployment.id for earlier, _ in before if earlier.deployment.name == step.deployment.name
        ]
        if not here:
            continue
        assert here[-1].cls in ("busy", "transient", "disguised")
        if here[-1].cls == "busy":
            assert here[-1].retry_after is not None
            assert step.delay == here[-1].retry_after <= routing.max_retry_after
        else:
            assert len(alike) - len(set(alike)) < routing.retries
            assert step.delay < min(routing.backoff_max, routing.backoff_initial * 2 ** (len(here) - 1))


@given(attempt_sequences())
def test_retry_after_is_waited_for_only_if_no_other_deployment_is_left(sequence: AttemptSequence) -> None:
    chain, routing, _, _ = sequence
    for step, before in histories(sequence):
        last = {earlier.deployment.id: why for earlier, why in before}
        tries = Counter(earlier.deployment.id for earlier, _ in before)
        why = last.get(step.deployment.id)
        if why is None or why.cls != "busy":
            continue
        others = [d for d in chain if last[d.id].cls in ("transient", "disguised")]
        left = step.delay + 2 * step.budget
        for other in others:
            alike = [d for d in chain if d.name == other.name]
            retried = sum(tries[d.id] - 1 for d in alike)
            assert retried >= routing.retries or left <= 2 * routing.backoff_max


@given(attempt_sequences())
def test_an_attempt_gets_half_the_remaining_time_if_a_fallback_is_left(sequence: AttemptSequence) -> None:
    chain, routing, _, _ = sequence
    for step, before in histories(sequence):
        tried = {earlier.deployment.id for earlier, _ in before} | {step.deployment.id}
        if len(tried) < len(chain) and len(before) + 1 < routing.max_attempts:
            assert step.budget <= routing.deadline / 2


@given(attempt_sequences())
def test_attempts_end_for_the_reported_reason(sequence: AttemptSequence) -> None:
    _, routing, steps, gave_up = sequence
    match gave_up.reason:
        case "attempts":
            assert len(steps) == routing.max_attempts
        case "caller":
            assert steps[-1][1].cls == "caller"
        case "exhausted":
            assert {step.deployment.id for step, _ in steps} == {d.id for d in sequence[0]}
        case reason:
            assert reason == "deadline"


def test_half_of_the_remaining_time_shrinks() -> None:
    routing = Routing(deadline=100)
    assert next_step([A, B, C], [], 0.0, routing, half) == Try(A, 0.0, 50.0)
    gone = [attempt(A, "credential"), attempt(B, "credential")]
    assert next_step([A, B, C], gone[:1], 50.0, routing, half) == Try(B, 0.0, 25.0)
    assert next_step([A, B, C], gone, 75.0, routing, half) == Try(C, 0.0, 25.0)
    assert next_step([A, B], [attempt(A)], 60.0, replace(routing, backoff_initial=0.0), half) == Try(
        A, 0.0, 20.0
    )
    assert next_step([A, B], [], 0.0, replace(routing, max_attempts=1), half) == Try(A, 0.0, 100.0)
    assert next_step([A], [], 100.0, routing, half) == GiveUp("deadline")


@given(routings(), st.sampled_from([[], [A], [A, B], [A, B, C]]), st.floats(0, 700))
def test_a_first_attempt_does_not_depend_on_the_state_of_other_deployments(
    routing: Routing, chain: list[Deployment], elapsed: float
) -> None:
    """With no state at all, the first attempt is decided without looking further."""
    elsewhere = {"elsewhere#1": Cooling(failures=1)}
    assert next_step(chain, [], elapsed, routing, half) == next_step(
        chain, [], elapsed, routing, half, elsewhere, 0.0
    )


M1, M2, N = deployment("m", 1), deployment("m", 2), deployment("n")


@each(
    ("chain", "classes", "retries", "asked"),
    [
        ([M1, N], ["transient", "transient", "transient", "transient"], 1, [M1, M1, N, N]),
        ([M1, N], ["transient"] * 5, 2, [M1, M1, M1, N, N, N]),
        ([M1, N], ["disguised", "transient"], 0, [M1, N]),
        ([M1, M2, N], ["transient"] * 4, 1, [M1, M2, M2, N, N]),
        ([M1, M2, N], ["transient", "credential", "credential"], 1, [M1, M2, N, M1]),
        ([M1, M2, N], ["credential", "transient", "transient"], 1, [M1, M2, M2, N]),
        ([M1, M2, N], ["busy", "busy"], 1, [M1, M2, N]),
        ([M1, N], ["credential"], 3, [M1, N]),
    ],
)
def test_after_a_transient_failure_the_same_model_is_next(
    chain: list[Deployment], classes: list[FailureClass], retries: int, asked: list[Deployment]
) -> None:
    routing = Routing(retries=retries, max_attempts=20)
    attempts: list[Attempt] = []
    for expected, cls in zip(asked, [*classes, "credential"], strict=False):
        step = next_step(chain, attempts, 0.0, routing, half)
        assert isinstance(step, Try)
        assert step.deployment == expected
        assert (step.delay > 0) is (expected.id in {a.deployment for a in attempts})
        attempts.append(attempt(expected, cls))


def cooling_until(until: float, *, probing: bool = False, cls: FailureClass = "transient") -> Cooling:
    return Cooling(3, until=until, rounds=1, probing=probing, cls=cls)


def test_a_cooling_deployment_of_the_same_model_is_not_next() -> None:
    step = next_step([M1, N, M2], [attempt(M1)] * 2, 0.0, Routing(), half, {"m#2": cooling_until(50.0)}, 10.0)
    assert isinstance(step, Try)
    assert step.deployment == N


def test_a_deployment_in_cooldown_is_not_retried_before_the_next_model() -> None:
    step = next_step([N, M1], [attempt(M1)], 0.0, Routing(), half, {"m#1": cooling_until(50.0)}, 10.0)
    assert isinstance(step, Try)
    assert step.deployment == N


def test_one_request_probes_a_cooling_chain_at_the_deployment_ready_first() -> None:
    cooling = {"m#1": cooling_until(20.0), "n#1": cooling_until(50.0)}
    step = next_step([M1, N], [], 0.0, Routing(), half, cooling, 10.0)
    assert isinstance(step, Try)
    assert step.deployment == M1
    busy = {"m#1": cooling_until(20.0, probing=True, cls="busy"), "n#1": cooling_until(50.0)}
    gave_up = next_step([M1, N], [], 0.0, Routing(), half, busy, 10.0)
    assert gave_up == GiveUp("cooling", 10.0, "busy")
    error = final_error([], gave_up, Routing())
    assert (error.code, error.status, error.retry_after) == ("upstream_rate_limited", 429, 10.0)
    down = next_step([M1], [], 0.0, Routing(), half, {"m#1": cooling_until(5.0, probing=True)}, 10.0)
    assert isinstance(down, GiveUp)
    error = final_error([], down, Routing())
    assert (error.code, error.status, error.retry_after) == ("upstream_unavailable", 503, 0.0)
    assert error.wire_headers()["retry-after"] == "1"


@pytest.mark.parametrize(("rounds", "again"), [(1, True), (2, False)])
def test_a_failed_probe_is_not_retried_immediately(rounds: int, again: bool) -> None:
    """What this request itself was the first to cool is, as far as `retries` go."""
    cooling = {"m#1": Cooling(3, until=50.0, rounds=rounds)}
    step = next_step([M1], [attempt(M1)], 0.0, Routing(), half, cooling, 10.0)
    assert isinstance(step, Try) is again
    busy = next_step([M1], [attempt(M1, "busy", retry_after=1.0)], 0.0, Routing(), half, cooling, 10.0)
    assert isinstance(busy, Try)


def test_a_deployment_probed_by_another_request_is_skipped() -> None:
    cooling = {"m#1": cooling_until(5.0, probing=True)}
    step = next_step([N, M1], [attempt(N, "credential")], 0.0, Routing(), half, cooling, 10.0)
    assert step == GiveUp("exhausted")


def test_retry_delays_have_full_jitter() -> None:
    dice = random.Random(3)
    routing = Routing(retries=9, max_attempts=20, backoff_initial=0.25, backoff_max=8.0)
    for tries, most in [(1, 0.25), (2, 0.5), (4, 2.0), (6, 8.0), (9, 8.0)]:
        steps = [next_step([A], [attempt(A)] * tries, 1.0, routing, dice.random) for _ in range(200)]
        delays = [step.delay for step in steps if isinstance(step, Try)]
        assert len(delays) == 200
        assert 0 <= min(delays) < most * 0.1
        assert most * 0.9 < max(delays) <= most


def test_a_ready_deployment_precedes_one_with_a_retry_after() -> None:
    gone = [attempt(A, "busy", retry_after=1.0), attempt(B)]
    step = next_step([A, B], gone, 2.0, Routing(), half)
    assert isinstance(step, Try)
    assert step.deployment == B


def test_a_delay_beyond_the_deadline_is_not_started() -> None:
    late = [attempt(A, "busy", retry_after=4.0)]
    assert next_step([A], late, 297.0, Routing(), half) == GiveUp("exhausted")
    short = [attempt(A, "busy", retry_after=4.0), attempt(B)]
    step = next_step([A, B], short, 297.0, Routing(), half)
    assert isinstance(step, Try)
    assert step.deployment == B


# --- what the caller sees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_the_caller_gets_the_last_failure(cls: FailureClass) -> None:
    last = failure(cls, code=CODE_OF_CLASS[cls], status=503, message="One sentence.", retry_after=7.0)
    error = final_error([attempt(A, "disguised"), Attempt("b#1", last, 5.0)], GiveUp("exhausted"), Routing())
    assert (error.code, error.message) == (CODE_OF_CLASS[cls], "One sentence.")
    assert error.status == {"caller": 400, "busy": 429}.get(cls, 502)
    assert error.retry_after == (7.0 if cls == "busy" else None)
    assert CODES[error.code][2] is (cls == "busy"), "the client's SDK retries only what may pass"
    assert error.attempts == [
        {"deployment": "a#1", "class": "disguised", "status": None},
        {"deployment": "b#1", "class": cls, "status": 503},
    ]


@pytest.mark.parametrize(("asked", "reported"), [(0.0, 0.0), (7.0, 7.0), (600.0, 600.0), (86400.0, 600.0)])
def test_retry_after_never_exceeds_the_cooldown(asked: float, reported: float) -> None:
    last = [attempt(A, "busy", retry_after=asked)]
    assert final_error(last, GiveUp("exhausted"), Routing()).retry_after == reported


def test_a_timeout_and_a_deadline_are_504() -> None:
    slow = attempt(A, "transient", code="upstream_timeout")
    assert final_error([slow], GiveUp("exhausted"), Routing()).code == "upstream_timeout"
    assert final_error([slow], GiveUp("deadline"), Routing()).code == "deadline_exceeded"
    assert final_error([], GiveUp("deadline"), Routing()).status == 504
