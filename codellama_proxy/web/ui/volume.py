"""The chart of the last 48 hours above the list of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from markupsafe import Markup

from codellama_proxy.core.clock import iso
from codellama_proxy.limits.windows import HOUR
from codellama_proxy.store.overviews import Sum
from codellama_proxy.store.reports import HOUR_GROUP
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.charts import Column, Series, stacked

HOURS = 48
_SERIES = {"ok": "answered", "cancelled": "client left", "error": "failed"}


def hours(now: float) -> list[int]:
    """The starts of the hours shown, the present one last, in unix seconds."""
    last = int(now // HOUR) * HOUR
    return [last - HOUR * before for before in reversed(range(HOURS))]


def chart(sums: Iterable[Sum], now: float, link: Callable[[str, str], str]) -> Markup:
    """Of sums by status and hour; `link` makes the address of a time range."""
    counts: Counter[tuple[int, str]] = Counter()
    for one in sums:
        counts[one.groups[HOUR_GROUP], one.groups["status"]] += one.requests
    columns = [
        Column(
            label=_label(start),
            values=tuple(counts[start, status] for status in _SERIES),
            tick=_tick(start),
            href=link(iso(start), iso(start + HOUR)),
            unfinished=start + HOUR > now,
        )
        for start in hours(now)
    ]
    parts = [Series(name, slot) for slot, name in enumerate(_SERIES.values())]
    title = "Requests by hour, the last 48 hours, UTC"
    return stacked(columns, parts, _count, title, lambda _: _count, steps=2)


def _count(number: float) -> str:
    return words.count(round(number)) if number == round(number) else ""


def _label(start: int) -> str:
    day = datetime.fromtimestamp(start, UTC)
    return f"{day:%a %d %b, %H:%M}\N{EN DASH}{datetime.fromtimestamp(start + HOUR, UTC):%H:%M} UTC"


def _tick(start: int) -> str:
    at = datetime.fromtimestamp(start, UTC)
    if at.hour % 6:
        return ""
    return f"{at:%d %b}" if at.hour == 0 else f"{at:%H:%M}"
