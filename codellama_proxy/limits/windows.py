"""Knows when a budget's window begins and ends; the clock is always an argument."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

HOUR, DAY = 3600, 86400
LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999."""
FIRST_MONDAY = 4 * DAY
"""The first Monday of the Unix epoch, which began on a Thursday."""

ROLLING = r"[1-9][0-9]{0,5}[hd]"
GRAMMAR = rf"hour|day|week|month|{ROLLING}"
"""What a budget's duration may be, wherever it is written."""
_ROLLING = re.compile(ROLLING)
_DURATION = re.compile(GRAMMAR)


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` on, and before `end`. A budget without duration has one window, for ever."""

    start: float
    end: float | None

    def contains(self, at: float) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


FOR_EVER = Window(0.0, None)


def is_rolling(duration: str | None) -> bool:
    """Whether the windows begin with the scope's first use and not with the calendar."""
    return duration is not None and _ROLLING.fullmatch(duration) is not None


def is_duration(text: str) -> bool:
    """Whether a budget may have it."""
    return _DURATION.fullmatch(text) is not None


def window(duration: str | None, now: float, anchor: float) -> Window:
    """The window that contains `now`. `anchor`: any beginning of a rolling one."""
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
    if now >= start + length:  # a float that lies too near to the edge to be told from it
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
    """The window to book into at `now`, given the one that was open last: the same, or a later one.

    A clock that goes back reopens nothing: the window that is open stays open. Unless it lies further ahead
    than its own length, which only a clock that was wrong before explains: then the window is moved back with
    what was spent in it, so that no scope waits much longer than one window for the next.
    """
    if opened.contains(now):
        return opened
    current = window(duration, now, opened.start)
    if current.start > opened.start or opened.end is None:
        return current
    return current if opened.start - now > opened.end - opened.start else opened
