"""Counters and histograms without the library's locks: everything here runs on the event loop."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import Counter
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"
"""The value of a bounded label for all values beyond its bound."""
MAX_VALUES: Mapping[str, int] = {"project": 500, "model": 200, "deployment": 400}
MAX_SERIES = 10_000


class BoundedCounter:
    """A counter that gives its totals to the library at a scrape: the library takes locks for every increment.

    `seen` holds the values that each bounded label has had so far, in any counter.
    """

    def __init__(self, counter: Counter, labels: Sequence[str], seen: Mapping[str, set[str]]) -> None:
        self._counter = counter
        self._bounds = tuple((seen.get(label), MAX_VALUES.get(label, 0)) for label in labels)
        self._since_scrape: dict[tuple[str, ...], float] = {}
        """By label values, one entry for each series that there has been."""

    def add(self, values: tuple[str, ...], amount: float = 1) -> None:
        """`values` are those of the labels, in their order."""
        counts = self._since_scrape
        if values not in counts:
            values = self._bounded(values)
            counts.setdefault(values, 0)
        counts[values] += amount

    def flush(self) -> None:
        """Adds what was counted since the last scrape to the library's counter."""
        for values, amount in self._since_scrape.items():
            self._counter.labels(*values).inc(amount)
            self._since_scrape[values] = 0

    def _bounded(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """The values, with `other` for those that would exceed a bound."""
        full = len(self._since_scrape) >= MAX_SERIES
        bounds = zip(values, self._bounds, strict=True)
        return tuple(_bounded(value, seen, limit, full=full) for value, (seen, limit) in bounds)


class UnlockedHistogram(Collector):
    """A histogram without labels. The library's takes locks and checks for every observation."""

    def __init__(self, name: str, help_text: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._help = help_text
        self._bounds = (*buckets, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._sum += value
        self._counts[bisect_left(self._bounds, value)] += 1

    def collect(self) -> Iterable[Metric]:
        total, buckets = 0, []
        for bound, count in zip(self._bounds, self._counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), float(total)))  # type: ignore[no-untyped-call]
        return [HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)]


def _bounded(value: str, seen: set[str] | None, limit: int, *, full: bool) -> str:
    """`seen` is `None` for a label that only ever has few values."""
    if seen is None:
        return value
    if full or (value not in seen and len(seen) >= limit):
        return OTHER
    seen.add(value)
    return value
