"""The rows of a growing log, each once, including those that another process commits after newer ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from codellama_proxy.store.interfaces import LedgerSession

PAGE_ROWS = 1000
GAP_SECONDS = 15.0
"""A position without a row after this time never gets one: its transaction was rolled back."""
MAX_GAPS = 100

Row = dict[str, Any]


class _Gap(NamedTuple):
    """Positions without a row, before one that has a row."""

    first: int
    last: int
    since: float


class FollowedLog:
    """Rows after a position, oldest first, except those that are committed late."""

    def __init__(self, db: LedgerSession, position: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._position = position
        self._clock = clock
        self._gaps: list[_Gap] = []

    def fresh(self) -> tuple[list[Row], bool]:
        """Rows that were not returned before, and whether there may be more already."""
        now = self._clock()
        late = [row for gap in self._open_gaps(now) for row in self._late(gap)]
        rows = self._db.logs_after(self._position, PAGE_ROWS)
        for position, _ in rows:
            if position > self._position + 1:
                self._gaps.append(_Gap(self._position + 1, position - 1, now))
            self._position = position
        return [*late, *(row for _, row in rows)], len(rows) == PAGE_ROWS

    def _open_gaps(self, now: float) -> list[_Gap]:
        found = [gap for gap in self._gaps[-MAX_GAPS:] if gap.since > now - GAP_SECONDS]
        self._gaps = []
        return found

    def _late(self, gap: _Gap) -> list[Row]:
        """The rows that a gap has now; what is left of it is looked at again."""
        found = self._db.logs_after(gap.first - 1, min(gap.last - gap.first + 1, PAGE_ROWS))
        rows = [(position, row) for position, row in found if position <= gap.last]
        first = gap.first
        for position, _ in rows:
            if position > first:
                self._gaps.append(_Gap(first, position - 1, gap.since))
            first = position + 1
        if first <= gap.last:
            self._gaps.append(_Gap(first, gap.last, gap.since))
        return [row for _, row in rows]
