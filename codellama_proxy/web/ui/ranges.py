"""The time ranges of overviews. Pure; unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from codellama_proxy.core.clock import iso
from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.reports import HOUR_GROUP, THREE_HOURS_GROUP

RANGES = {"24h": (DAY, HOUR), "7d": (7 * DAY, 3 * HOUR), "30d": (30 * DAY, DAY)}
"""Length and column width by name."""
DEFAULT = "7d"


class Range(NamedTuple):
    """Whole columns, of which the last is not over yet."""

    name: str
    start: int
    end: int
    step: int

    @property
    def starts(self) -> range:
        """Of the columns."""
        return range(self.start, self.end, self.step)

    @property
    def group(self) -> str:
        """The group of sums by column."""
        if self.step >= DAY:
            return "day"
        return HOUR_GROUP if self.step == HOUR else THREE_HOURS_GROUP

    @property
    def before(self) -> tuple[int, int]:
        """Start and end of the equally long range before."""
        return self.start - (self.end - self.start), self.start


def range_of(name: str | None, now: float, step: int | None = None) -> Range:
    """The range that ends now, `DEFAULT` for an unknown name; `step` instead of its own column width."""
    known = name if name in RANGES else DEFAULT
    length, usual = RANGES[known]
    width = step or usual
    end = (int(now) // width + 1) * width
    return Range(known, end - -(-length // width) * width, end, width)


def label(start: int, step: int) -> str:
    """A column in words: `Thu 26 Nov, 03:00 to 06:00 UTC`."""
    day = _at(start).strftime("%a %d %b")
    if step >= DAY:
        return day
    return f"{day}, {_at(start):%H:%M} to {_at(start + step):%H:%M} UTC"


def tick(start: int, step: int) -> str:
    """The text under a column; empty for most."""
    if step == HOUR:
        return f"{_at(start):%H:%M}" if start % (4 * HOUR) == 0 else ""
    if start % DAY:
        return ""
    return f"{_at(start):%d %b}" if step < DAY or (start // DAY) % 5 == 0 else ""


def parameters(start: int, end: int) -> dict[str, str]:
    """The query for a list of the requests of a range."""
    return {"start": iso(start), "end": iso(end)}


def _at(moment: int) -> datetime:
    return datetime.fromtimestamp(moment, UTC)
