"""Figures and the chart of the overview, from sums by group, status and time. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from codellama_proxy.store.overviews import Measure, Sum
from codellama_proxy.store.reports import TIME_GROUPS
from codellama_proxy.web.ui import charts, words
from codellama_proxy.web.ui.charts import MAX_SERIES, OTHER, Column, Series
from codellama_proxy.web.ui.ranges import Range, label, tick

BY = ("model", "project", "status", "key", "user")
MANY = ("key", "user")
"""Groups that may be too many to read all."""
SHOW: tuple[Measure, ...] = ("spend", "requests", "tokens", "failures")
STATUS_NAMES = {"ok": "answered", "error": "failed", "cancelled": "client left", "held": "running"}
NONE_NAMES = {"model": "no model", "key": "no key", "user": "no user"}

Name = Callable[[Any], str]
"""The name of a group's value."""


def amount(show: str, one: Sum) -> int:
    """What a chart shows of a sum: nano-USD, requests, tokens, or failed requests if it has a status."""
    match show:
        case "spend":
            return one.cost_nanos
        case "tokens":
            return one.tokens
        case "failures":
            return one.requests if one.groups.get("status") == "error" else 0
        case _:
            return one.requests


class Totals(NamedTuple):
    """Sums of a range, for each of its columns."""

    spend: list[int]
    requests: list[int]
    tokens: list[int]
    failures: list[int]
    saved: list[int]


def totals(groups: Iterable[Sum], shown: Range) -> Totals:
    """`groups` by time, status and anything else."""
    found = Totals(*([0] * len(shown.starts) for _ in Totals._fields))
    for one in groups:
        at = column_of(one.groups, shown)
        found.spend[at] += one.cost_nanos
        found.requests[at] += one.requests
        found.tokens[at] += one.tokens
        found.failures[at] += amount("failures", one)
        found.saved[at] += one.saved_nanos
    return found


def column_of(groups: Mapping[str, Any], shown: Range) -> int:
    """The column of a group; folded days that began before the range belong to the first."""
    at = next((groups[name] for name in TIME_GROUPS if name in groups), None)
    if at is None:
        at = int(datetime.fromisoformat(groups["day"]).replace(tzinfo=UTC).timestamp())
    return min(max((int(at) - shown.start) // shown.step, 0), len(shown.starts) - 1)


class Split(NamedTuple):
    """Amounts by column and series, largest series first."""

    names: list[str]
    totals: list[int]
    columns: list[list[int]]


NOTHING = Split([], [], [])


def split(groups: Iterable[Sum], by: str, show: str, shown: Range, name: Name) -> Split:
    """The `MAX_SERIES` largest groups; the others together are one more."""
    ranked = _ranked(groups, by, show, shown, name)
    kept = [named for named in ranked if any(named[1])][: MAX_SERIES if len(ranked) > MAX_SERIES else None]
    rest = [values for named, values in ranked if all(named != other for other, _ in kept) and any(values)]
    if rest:
        kept.append((OTHER, [sum(values) for values in zip(*rest, strict=True)]))
    return _split(kept)


def split_with_rest(
    largest: Iterable[Sum], whole: Iterable[Sum], by: str, show: str, shown: Range, name: Name
) -> Split:
    """The largest groups, and the rest of the whole as one more."""
    kept = [named for named in _ranked(largest, by, show, shown, name) if any(named[1])]
    rest = [0] * len(shown.starts)
    for one in whole:
        rest[column_of(one.groups, shown)] += amount(show, one)
    rest = [
        max(value - sum(parts), 0)
        for value, *parts in zip(rest, *(values for _, values in kept), strict=True)
    ]
    if any(rest):
        kept.append((OTHER, rest))
    return _split(kept)


def _ranked(
    groups: Iterable[Sum], by: str, show: str, shown: Range, name: Name
) -> list[tuple[str, list[int]]]:
    by_name: dict[str, list[int]] = defaultdict(lambda: [0] * len(shown.starts))
    for one in groups:
        by_name[name(one.groups[by])][column_of(one.groups, shown)] += amount(show, one)
    return sorted(by_name.items(), key=lambda named: (-sum(named[1]), named[0]))


def _split(kept: Sequence[tuple[str, list[int]]]) -> Split:
    names = [named for named, _ in kept]
    series = [values for _, values in kept]
    return Split(
        names, [sum(values) for values in series], [list(column) for column in zip(*series, strict=True)]
    )


def forms(show: str, amounts: Sequence[int]) -> tuple[Callable[[Any], str], Callable[[Any], str]]:
    """The formats of a single amount, and of a column of them."""
    if show == "spend":
        return words.usd, words.usd_column(amounts)
    return (lambda value: words.count(round(value))), (lambda value: words.count(round(value)))


class Chart(NamedTuple):
    columns: list[Column]
    series: list[Series]


def chart(found: Split, shown: Range, now: float, link: Callable[[int, int], str]) -> Chart:
    """`link` leads to the requests of a column, from its start and end."""
    made = charts.series(found.names)
    values = found.columns or [[] for _ in shown.starts]
    columns = [
        Column(
            label(start, shown.step),
            tuple(amounts),
            tick(start, shown.step) if start + shown.step < shown.end else "",  # there is no room beside it
            link(start, start + shown.step),
            unfinished=start + shown.step > now,
        )
        for start, amounts in zip(shown.starts, values, strict=True)
    ]
    return Chart(columns, made)


def median(values: Sequence[float]) -> float | None:
    """The lower of two middle values; `None` for none."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def within(values: Sequence[float], part: float) -> float | None:
    """What so large a part of the values does not exceed."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else None


def medians(values: Sequence[float], most: int = 28) -> list[float]:
    """The medians of equally large parts in their order, for a small chart of a course."""
    size = max(-(-len(values) // most), 1)
    parts = (values[at : at + size] for at in range(0, len(values), size))
    return [found for part in parts if (found := median(part)) is not None]
