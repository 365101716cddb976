"""The SQL behind `store.request_search`.

The search walks sequences from the newest to the oldest. The sums by hour tell which sequences a time range has, and
where a search without any result so far can go on.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from codellama_proxy.store.reports import LOG_COLUMNS, Filters, log_row
from codellama_proxy.store.request_search import (
    CACHED,
    MAX_INDEXED_ROWS,
    MAX_NEIGHBOUR_ROWS,
    MAX_SEARCHED_ROWS,
    Found,
    Neighbours,
    Search,
    Span,
    spans,
)
from codellama_proxy.store.sql.queries import Query, load, where
from codellama_proxy.store.sql.report_queries import hour_of, names_where, requests_where

Read = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""All rows of a statement."""

SQL = load("request_search")
_COLUMNS = ", ".join(LOG_COLUMNS)
_INDEXED = ("key_id", "session", "project")
"""Filters that an index answers, the narrowest first."""


class RequestSearch:
    """Searches requests through a function that reads."""

    def __init__(
        self, read: Read, max_rows: int = MAX_SEARCHED_ROWS, max_indexed: int = MAX_INDEXED_ROWS
    ) -> None:
        """At most so many rows are looked at in one step, in their order or found by an index."""
        self._read = read
        self._max_rows = max_rows
        self._max_indexed = max_indexed

    async def search(self, search: Search, before: str | None, size: int) -> Found | None:
        """The next page; `None` if there is no request `before`, or it is of another project than the search."""
        scope, values = _of_project(search.filters)
        limits = SQL["limits"].format(scope=scope)
        ((first, upto, exists),) = await self._read(limits, [before, *values, before, *values])
        if before is not None and not exists:
            return None
        rows: list[dict[str, Any]] = []
        budget = 1.0
        for span in spans(first, upto, *await self._hours(search.filters, upto)):
            last = await self._last(span, search.filters)
            if last is None:
                continue
            span = span._replace(last=last)  # noqa: PLW2901 - nothing after it can match
            floor, used = await self._floor(span, search.filters, budget)
            rows += await self._page(search, Span(floor, span.last), size + 1 - len(rows))
            if len(rows) > size:
                return Found(rows[:size], rows[size - 1]["request_id"])
            if floor > span.first:
                return await self._unfinished(rows, search.filters, floor, upto)
            budget -= used
        return Found(rows)

    async def _hours(self, filters: Filters, upto: int) -> tuple[int | None, int | None]:
        """The first and the last sequence in the hours of the time range; `None` where it is open."""
        first = last = None
        if filters.start is not None:
            ((first,),) = await self._read(SQL["from_hour"], (hour_of(filters.start),))
            first = upto + 1 if first is None else first
        if filters.end is not None:
            ((last,),) = await self._read(SQL["before_hour"], (math.ceil(filters.end),))
            last = last or 0
        return first, last

    async def neighbours(self, search: Search, request_id: str) -> Neighbours:
        """The requests next to one."""
        found = await self._read(SQL["seq_of"], (request_id,))
        if not found:
            return Neighbours(None, None)
        which, values = _where(search)
        seq = found[0][0]
        newer, older = [
            await self._read(SQL[name].format(where=which), [*values, seq, bound])
            for name, bound in (("newer", seq + MAX_NEIGHBOUR_ROWS), ("older", seq - MAX_NEIGHBOUR_ROWS))
        ]
        return Neighbours(newer[0][0] if newer else None, older[0][0] if older else None)

    async def among(self, search: Search, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Those of some requests that the search finds, newest first."""
        if not request_ids:
            return []
        which, values = _where(search)
        marks = ", ".join("?" * len(request_ids))
        sql = SQL["among"].format(columns=_COLUMNS, where=which, ids=marks)
        return [log_row(row) for row in await self._read(sql, [*values, *request_ids])]

    async def _page(self, search: Search, span: Span, size: int) -> list[dict[str, Any]]:
        which, values = _where(search)
        sql = SQL["page"].format(columns=_COLUMNS, where=which)
        return [log_row(row) for row in await self._read(sql, [*values, span.first, span.last, size])]

    async def _floor(self, span: Span, filters: Filters, budget: float) -> tuple[int, float]:
        """The lowest sequence of the span to read now, and the part of a step's work that this is at most."""
        scope, values = _scope(filters)
        if not values:
            most = max(round(budget * self._max_rows), 1)
            floor = max(span.first, span.last - most + 1)
            return floor, (span.last - floor + 1) / self._max_rows
        most = max(round(budget * self._max_indexed), 1)
        reached = await self._nth((scope, values), span, most)
        return (span.first, 0.0) if reached is None else (reached, budget)

    async def _last(self, span: Span, filters: Filters) -> int | None:
        """The last sequence of the span to read; `None` if it has nothing.

        Where the index is not of the project, that is a request of the project: before such a one the next step begins.
        """
        if filters.project is None or (filters.key_id is None and filters.session is None):
            return span.last
        return await self._nth(_of_project(filters), span, 0)

    async def _nth(self, scope: Query, span: Span, number: int) -> int | None:
        """The sequence of a scope's request, counted from the newest of the span."""
        which, values = scope
        found = await self._read(SQL["floor"].format(scope=which), [*values, span.first, span.last, number])
        return found[0][0] if found else None

    async def _unfinished(self, rows: list[dict[str, Any]], filters: Filters, floor: int, upto: int) -> Found:
        """A page that is not full: the next step begins at the next hour that can have a result."""
        which, values = where(*names_where(filters))
        if values and not rows and floor <= upto:
            ((last,),) = await self._read(SQL["last_with"].format(where=which), [floor, *values])
            if last is None:
                return Found(rows)
            floor = min(floor, last + 1)
        scope, values = _scope(filters) if filters.project is None else _of_project(filters)
        request_id, created_at = (await self._read(SQL["boundary"].format(scope=scope), [*values, floor]))[0]
        return Found(rows, request_id, created_at)


def _where(search: Search) -> Query:
    which, values = requests_where(search.filters)
    more, given = where(("http_status = ?", search.http_status), ("total_ms >= ?", search.min_ms))
    cached = {None: "", True: f" and cache in {CACHED}", False: f" and coalesce(cache, '') not in {CACHED}"}
    return f"{which} and {more}{cached[search.cached]}", [*values, *given]


def _of_project(filters: Filters) -> Query:
    """What a search may name: who asks for one project must not learn of others."""
    return requests_where(Filters(project=filters.project))


def _scope(filters: Filters) -> Query:
    """The filters that an index answers."""
    if filters.key_id is None and filters.user is not None:
        return requests_where(Filters(user=filters.user, project=filters.project))
    for name in _INDEXED:
        if getattr(filters, name) is not None:
            return requests_where(Filters()._replace(**{name: getattr(filters, name)}))
    if filters.status in ("error", "cancelled", "held"):
        return requests_where(Filters(status=filters.status))
    return requests_where(Filters())
