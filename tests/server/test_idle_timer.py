"""Idle connections are closed when their time is over, however often they were busy before."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.server.idle_timer import TOLERANCE_SECONDS, IdleTimer

SECONDS = 10.0


class Clock(asyncio.AbstractEventLoop):
    """An event loop with one timer and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: float | None = None
        self.set = 0

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback, *args, context=None):  # type: ignore[no-untyped-def]
        self.due, self._callback = self.now + delay, callback
        self.set += 1
        return self

    def cancel(self) -> None:
        self.due = None

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due is not None and self.due <= end:
            self.now, self.due = self.due, None
            self._callback()
        self.now = end


@given(busy=st.lists(st.tuples(st.floats(0, 9.9), st.floats(0, 40)), max_size=6))
def test_it_rings_when_the_last_idleness_has_lasted_long_enough(busy: list[tuple[float, float]]) -> None:
    clock, rung = Clock(), []
    timer = IdleTimer(clock, SECONDS, lambda: rung.append(clock.now))
    timer.start()
    for idle, working in busy:
        clock.advance(idle)
        timer.since = None
        clock.advance(working)
        timer.start()
    assert rung == []
    started = clock.now
    clock.advance(3 * SECONDS)
    assert len(rung) == 1
    assert abs(rung[0] - started - SECONDS) <= TOLERANCE_SECONDS


def test_requests_do_not_set_timers() -> None:
    clock = Clock()
    timer = IdleTimer(clock, SECONDS, lambda: None)
    for _ in range(50):
        timer.start()
        timer.since = None
    assert clock.set == 1


def test_it_is_silent_once_stopped() -> None:
    clock, rung = Clock(), []
    timer = IdleTimer(clock, SECONDS, lambda: rung.append(clock.now))
    timer.start()
    timer.stop()
    clock.advance(3 * SECONDS)
    assert rung == []
