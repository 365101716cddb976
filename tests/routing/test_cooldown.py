"""Cooling: what failures leave behind, for how long, and what ends it."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Cooldown, Deployment, Secret
from codellama_proxy.core.types import Failure, FailureClass
from codellama_proxy.routing.cooldown import Cooldowns, Cooling, Probe, cool, is_cooling
from codellama_proxy.upstream.pools import identity_of
from tests.support.builders import deployment, failure

POLICY = Cooldown(failures=3, time=30.0, max_time=600.0, auth_time=300.0)
A = deployment("a")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Book:
    """Cooldowns on a clock of their own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cooldowns = Cooldowns(identity_of, self.clock)

    def outcome(self, cls: FailureClass | None, one: Deployment = A, **changes: object) -> None:
        probe = self.cooldowns.begin(one)
        self.ended(cls, one, probe, **changes)

    def ended(
        self, cls: FailureClass | None, one: Deployment = A, probe: Probe | None = None, **changes: object
    ) -> None:
        self.cooldowns.end(one, failure(cls, **changes) if cls else None, POLICY, probe)

    def cools_for(self, one: Deployment = A) -> float:
        """Seconds from now; 0 when it is ready."""
        state = self.cooldowns.states().get(one.id)
        return max(state.until - self.clock.now, 0.0) if state else 0.0

    def cooling(self, one: Deployment = A) -> bool:
        return is_cooling(self.cooldowns.states().get(one.id), self.clock.now)


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.mark.parametrize("cls", ["transient", "disguised"])
def test_three_consecutive_failures_start_a_cooldown(book: Book, cls: FailureClass) -> None:
    for _ in range(2):
        book.outcome(cls)
        assert not book.cooling()
    book.outcome(cls)
    assert book.cools_for() == 30.0


def test_a_success_resets_the_failure_count(book: Book) -> None:
    for cls in ("transient", "transient", None, "transient", "transient"):
        book.outcome(cls)
    assert not book.cooling()


@pytest.mark.parametrize("cls", ["caller", "client_left"])
def test_client_errors_and_disconnects_cause_no_cooldown(book: Book, cls: FailureClass) -> None:
    for _ in range(50):
        book.outcome(cls)
    assert book.cooldowns.states() == {}
    for other in ("transient", cls, "transient", cls):
        book.outcome(other)
    assert not book.cooling(), "and they do not count among the failures in a row"


def test_a_refused_credential_starts_a_long_cooldown_that_doubles(book: Book) -> None:
    book.outcome("credential")
    assert book.cools_for() == 300.0
    book.clock.now += 300.0
    book.outcome("credential")
    assert book.cools_for() == 600.0
    book.clock.now += 600.0
    book.outcome("credential")
    assert book.cools_for() == 600.0, "never beyond max_time"


@pytest.mark.parametrize(
    ("asked", "cooled"), [(7.0, 7.0), (0.25, 0.25), (0.0, 0.0), (3600.0, 600.0), (1e308, 600.0), (None, 30.0)]
)
def test_a_rate_limited_deployment_cools_for_its_retry_after(
    book: Book, asked: float | None, cooled: float
) -> None:
    book.outcome("busy", retry_after=asked)
    assert book.cools_for() == cooled


def test_each_failed_probe_doubles_the_cooldown_up_to_the_maximum(book: Book) -> None:
    for _ in range(3):
        book.outcome("transient")
    seen = []
    for _ in range(7):
        seen.append(book.cools_for())
        book.clock.now += book.cools_for()
        book.outcome("transient")
    assert seen == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_failures_of_concurrent_requests_start_one_cooldown(book: Book) -> None:
    for _ in range(100):
        book.cooldowns.begin(A)
    for _ in range(100):
        book.ended("transient")
        book.clock.now += 0.001
    assert book.cools_for() == pytest.approx(30.0, abs=0.11)
    book.clock.now += 30.0
    book.outcome("transient")
    assert book.cools_for() == 60.0


def test_after_a_cooldown_exactly_one_request_is_the_probe(book: Book) -> None:
    book.outcome("busy", retry_after=10.0)
    book.clock.now += 10.0
    assert not book.cooling(), "ready for its probe"
    probe = book.cooldowns.begin(A)
    assert book.cooling(), "for everybody else"
    assert book.cooldowns.begin(A) is None
    book.cooldowns.answered(A, probe)
    assert not book.cooling()
    assert book.cooldowns.states() == {}


@pytest.mark.parametrize("cls", ["transient", "caller", None])
def test_every_outcome_of_a_probe_frees_the_probe_slot(book: Book, cls: FailureClass | None) -> None:
    book.outcome("busy", retry_after=10.0)
    book.clock.now += 10.0
    book.outcome(cls)
    state = book.cooldowns.states().get(A.id)
    assert state is None or not state.probing
    assert book.cooling() is (cls == "transient")


def test_an_abandoned_probe_frees_the_probe_slot(book: Book) -> None:
    book.outcome("busy", retry_after=10.0)
    book.clock.now += 10.0
    book.cooldowns.abandon(A, book.cooldowns.begin(A))
    assert not book.cooling()
    book.cooldowns.begin(A)
    assert book.cooling()


def test_an_answer_started_before_a_cooldown_does_not_end_it(book: Book) -> None:
    book.cooldowns.answered(A, book.cooldowns.begin(A))
    book.outcome("busy", retry_after=20.0)
    book.ended(None)
    assert book.cools_for() == 20.0


def test_a_probe_during_a_cooldown_ends_or_doubles_it(book: Book) -> None:
    for _ in range(3):
        book.outcome("transient")
    book.clock.now += 10.0
    book.outcome("transient")
    assert book.cools_for() == 60.0
    probe = book.cooldowns.begin(A)
    book.cooldowns.answered(A, probe)
    assert book.cools_for() == 0.0
    book.ended(None, A, probe)
    assert book.cooldowns.states() == {}


def test_a_short_retry_after_of_a_probe_does_not_shorten_the_cooldown(book: Book) -> None:
    book.outcome("credential")
    book.outcome("busy", retry_after=1.0)
    assert book.cools_for() == 300.0


@pytest.mark.parametrize("cls", ["transient", "credential", "busy", "caller", None])
def test_only_the_probe_itself_ends_the_probe(book: Book, cls: FailureClass | None) -> None:
    """Those that began before the rest, or before the probe, have no say in it."""
    for _ in range(3):
        book.outcome("transient")
    book.clock.now += 31.0
    probe = book.cooldowns.begin(A)
    until = book.cooldowns.states()[A.id].until
    if cls is not None:
        book.ended(cls)
        assert book.cooldowns.is_probed(A)
        assert book.cooldowns.states()[A.id].until == until
        book.ended("transient", A, probe)
        assert book.cools_for() == 60.0


def test_a_retry_that_fails_does_not_double_the_cooldown(book: Book) -> None:
    for _ in range(3):
        book.outcome("transient")
    again = book.cooldowns.begin(A, again=True)
    book.ended("transient", A, again)
    assert book.cools_for() == 30.0
    assert not book.cooldowns.is_probed(A)


@pytest.mark.parametrize(
    "changes",
    [{"base_url": "https://moved.example/v1"}, {"api_key": Secret("sk-rotated")}, {"provider": "groq"}],
)
def test_a_new_address_or_credential_has_no_cooldown(book: Book, changes: dict[str, Any]) -> None:
    book.outcome("credential")
    moved = deployment("a", **changes)
    book.cooldowns.keep_only({A.id: moved})
    assert not book.cooling()
    book.outcome("credential", moved)
    book.cooldowns.begin(A)
    assert not book.cooling(), "even if a reload was not heard of"


def test_a_reload_keeps_unchanged_cooldowns_and_drops_removed_ones(book: Book) -> None:
    other = deployment("b")
    book.outcome("credential")
    book.outcome("credential", other)
    book.cooldowns.keep_only({A.id: deployment("a", weight=5.0)})
    assert book.cooling()
    assert not book.cooling(other)


outcomes = st.lists(
    st.tuples(
        st.none()
        | st.builds(
            Failure,
            st.sampled_from(get_args(FailureClass)),
            retry_after=st.none() | st.floats(0, allow_infinity=False),
        ),
        st.floats(0, 1000),
    ),
    max_size=30,
)


@given(outcomes)
def test_no_history_exceeds_the_maximum_cooldown(history: list[tuple[Failure | None, float]]) -> None:
    now = 0.0
    state: Cooling | None = None
    for outcome, pause in history:
        before = state
        state = cool(state, outcome, POLICY, now)
        if state is not None:
            assert state.until <= now + POLICY.max_time
            assert state.until >= (before.until if before else 0.0), "no outcome shortens a cooldown"
            assert not state.probing
        now += pause
