"""Start and end of budget windows; the clock is always an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

HOUR, DAY = 3600, 86400
LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999."""
FIRST_MONDAY = 4 * DAY
"""The first Monday of the Unix epoch, which began on a Thursday."""

ROLLING = r"[1-9][0-9]{0,5}[hd]"
GRAMMAR = rf"hour|day|week|month|{ROLLING}"
"""Regular expression of a budget's duration."""
_ROLLING = re.compile(ROLLING)
_DURATION = re.compile(GRAMMAR)


class Window(NamedTuple):
    """From `start` to before `end`. A budget without a duration has one window without an end."""

    start: float
    end: float | None

    def contains(self, at: float) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


FOR_EVER = Window(0.0, None)


def is_rolling(duration: str | None) -> bool:
    """Whether windows start with the scope's first use instead of the calendar."""
    return duration is not None and _ROLLING.fullmatch(duration) is not None


def is_duration(text: str) -> bool:
    """Whether it is a valid budget duration."""
    return _DURATION.fullmatch(text) is not None


def window(duration: str | None, now: float, anchor: float) -> Window:
    """The window that contains `now`. `anchor`: the start of any rolling window."""
    match duration:
        case None:
            return FOR_EVER
        case "hour":
            return _grid(now, 0, HOUR)
        case "day":
            return _grid(now, 0, DAY)
        case "week":
            return _grid(now, FIRST_MONDAY, 7 * DAY)
        case "month":
            return _month(int(now // DAY))
        case _:
            return _grid(now, anchor, _length(duration))


def _grid(now: float, anchor: float, length: int) -> Window:
    start = anchor + (now - anchor) // length * length
    if now >= start + length:  # rounding of floats at the edge
        start += length
    return Window(start, start + length)


@lru_cache(maxsize=64)
def _month(day: int) -> Window:
    first = datetime.fromtimestamp(day * DAY, UTC).replace(day=1)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return Window(first.timestamp(), after.timestamp())


@lru_cache(maxsize=64)
def _length(duration: str) -> int:
    found = _ROLLING.fullmatch(duration)
    if found is None:
        raise ValueError(f"not a budget duration: {duration!r}")
    return int(duration[:-1]) * (HOUR if duration[-1] == "h" else DAY)


def turned(opened: Window, duration: str | None, now: float) -> Window:
    """The window to book into at `now`, given the last open one: the same, or a later one.

    If the clock goes back, the open window stays open, unless it starts further ahead than its own length (the
    clock was wrong before): then the window moves back with its spend, so that no scope waits much longer than
    one window for the next.
    """
    if opened.contains(now):
        return opened
    current = window(duration, now, opened.start)
    if current.start > opened.start or opened.end is None:
        return current
    return current if opened.start - now > opened.end - opened.start else opened
