"""Pages of requests for people: any filters, bounded work, no count of all results."""

from __future__ import annotations

from typing import Any, NamedTuple

from codellama_proxy.store.reports import Filters

MAX_SEARCHED_ROWS = 75_000
"""Rows that one step looks at; a page that is not full after that says how far it searched."""
MAX_INDEXED_ROWS = 9_000
"""The same for rows that an index finds one by one."""
MAX_NEIGHBOUR_ROWS = 10_000
"""Rows that are looked at in each direction for the request before and after one."""
CACHED = ("hit", "semantic")


class Search(NamedTuple):
    """Which requests to find; `None` matches all."""

    filters: Filters = Filters()
    cached: bool | None = None
    http_status: int | None = None
    min_ms: float | None = None
    """Requests that took at least this many milliseconds."""


class Found(NamedTuple):
    """One page, newest first."""

    rows: list[dict[str, Any]]
    next: str | None = None
    """The id of the request before which the search goes on; `None` at the end."""
    searched_to: float | None = None
    """Unix seconds to which it searched, if the page is not full but older requests are not searched yet."""


class Neighbours(NamedTuple):
    """The ids of the requests next to one in a search; `None` if there is none nearby."""

    newer: str | None
    older: str | None


class Span(NamedTuple):
    """Sequences to search, from `first` to `last`, newest first."""

    first: int
    last: int


def spans(before: int, upto: int, start: int | None, end: int | None) -> list[Span]:
    """What to search, newest first: rows that are in no sums, then those in the hours of the time range.

    `upto` is the last sequence in the sums; `start` and `end` are the first and last one of the hours searched.
    """
    newest, last = Span(upto + 1, before - 1), Span(start or 1, min(before - 1, upto if end is None else end))
    return [span for span in (newest, last) if span.first <= span.last]
