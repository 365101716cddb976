"""Where a budget is headed at its present rate. Pure; amounts in nano-USD, times in unix seconds."""

from __future__ import annotations

from typing import NamedTuple

MAX_RATE_SECONDS = 7 * 86_400.0
"""The rate is that of the last 7 days, or since the start of the window."""
MIN_RATE_SECONDS = 3_600.0
"""A shorter time says nothing about the rate."""


class Spending(NamedTuple):
    """A budget in its window."""

    spent: int
    limit: int
    start: float
    end: float | None
    """When the window ends and the budget resets; `None` if it never does."""
    recent: int
    """Spent since `rate_since`."""


class Projection(NamedTuple):
    headed_for: int | None
    """Spent at the end of the window; `None` without an end."""
    runs_out: float | None
    """When the limit is reached; `None` if not within the window."""


def rate_since(start: float, now: float) -> float:
    """The start of the time that the rate is taken from."""
    return max(start, now - MAX_RATE_SECONDS)


def project(budget: Spending, now: float) -> Projection | None:
    """`None` in the first hour of a window."""
    passed = now - rate_since(budget.start, now)
    if passed < MIN_RATE_SECONDS:
        return None
    rate = budget.recent / passed
    headed = None if budget.end is None else budget.spent + round(rate * max(budget.end - now, 0.0))
    return Projection(headed, _runs_out(budget, rate, now))


def _runs_out(budget: Spending, rate: float, now: float) -> float | None:
    if budget.spent >= budget.limit:
        return now
    if rate <= 0:
        return None
    at = now + (budget.limit - budget.spent) / rate
    return at if budget.end is None or at < budget.end else None
