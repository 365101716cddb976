"""Counts of the last hour, in memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

MINUTES = 60
_MINUTE_SECONDS = 60.0


class RecentCounts:
    """Counts by minute, of which those of the last `MINUTES` are kept."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, Counter[tuple[str, ...]]]] = deque(maxlen=MINUTES)

    def add(self, values: tuple[str, ...], now: float) -> None:
        """`now` is in monotonic seconds, here and below."""
        minute = int(now // _MINUTE_SECONDS)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter()))
        self._minutes[-1][1][values] += 1

    def totals(self, now: float) -> Mapping[tuple[str, ...], int]:
        first = int(now // _MINUTE_SECONDS) - MINUTES + 1
        found: Counter[tuple[str, ...]] = Counter()
        for minute, counts in self._minutes:
            if minute >= first:
                found.update(counts)
        return found
