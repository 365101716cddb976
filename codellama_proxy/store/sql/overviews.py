"""The SQL behind `store.overviews`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from codellama_proxy.core.types import Key
from codellama_proxy.store.overviews import (
    MAX_GROUPS,
    MAX_KEYS,
    MAX_USER_BALANCES,
    Among,
    Balance,
    KeyUse,
    Measure,
    Recent,
    Sum,
    Sums,
)
from codellama_proxy.store.reports import Filters, in_order
from codellama_proxy.store.request_search import CACHED
from codellama_proxy.store.sql.keys import from_row
from codellama_proxy.store.sql.queries import load, where
from codellama_proxy.store.sql.rankings import Rankings
from codellama_proxy.store.sql.report_queries import spend_page_query
from codellama_proxy.store.sql.sums_cache import SumsCache

Read = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""All rows of a statement."""

SQL = load("overviews")


class OverviewQueries:
    """`interfaces.Overviews`, through a function that reads."""

    def __init__(self, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._cache = SumsCache(read)
        self._rankings = Rankings(read, clock)

    async def largest(
        self, group: str, measure: Measure, filters: Filters, size: int
    ) -> tuple[str | None, ...]:
        return await self._rankings.largest(group, measure, filters, size)

    async def sums(self, group_by: Sequence[str], filters: Filters, among: Among | None = None) -> Sums:
        names = in_order(group_by)
        kept = await self._cache.sums(names, filters, among)
        if kept is None:
            return await self._all_sums(names, filters, among)
        groups = [Sum(dict(zip(names, group, strict=True)), *amounts) for group, amounts in kept.items()]
        total = (sum(column) for column in zip(*kept.values(), strict=True)) if kept else (0,) * 6
        return Sums(tuple(groups) if names and any(kept.values()) else (), Sum({}, *total), is_complete=True)

    async def _all_sums(self, names: Sequence[str], filters: Filters, among: Among | None) -> Sums:
        rows = await self._read(*spend_page_query(names, filters, 1, MAX_GROUPS, among))
        (whole,) = (row for row in rows if row[0] is not None)
        groups = tuple([_sum(names, row[1:]) for row in rows if row[0] is None])
        return Sums(groups, _sum((), whole[1 + len(names) :]), whole[0] <= MAX_GROUPS)

    async def balances(self) -> list[Balance]:
        rows = await self._read(SQL["balances"], ())
        return [Balance(*row) for row in rows]

    async def user_balances(self) -> list[Balance]:
        rows = await self._read(SQL["user_balances"], (MAX_USER_BALANCES,))
        return [Balance(*row) for row in rows]

    async def recent(self, project: str | None, size: int) -> list[Recent]:
        which, values = where(("project = ?", project))
        rows = await self._read(SQL["recent"].format(where=which), (*values, size))
        return [
            Recent(at, status, model, cache in CACHED, attempts or "", tokens or 0, first_ms, total_ms)
            for at, status, model, cache, attempts, tokens, first_ms, total_ms in rows
        ]

    async def known_keys(self, project: str | None) -> list[Key]:
        which, values = where(("project = ?", project))
        rows = await self._read(SQL["known_keys"].format(where=which), (*values, MAX_KEYS))
        return [from_row(row) for row in rows]

    async def keys(self, project: str | None) -> list[KeyUse]:
        which, values = where(("project = ?", project))
        rows = await self._read(SQL["keys"].format(where=which), (*values, MAX_KEYS))
        return [KeyUse(from_row(row), row[10]) for row in rows]

    async def since(self) -> float | None:
        ((hour, day, request),) = await self._read(SQL["since"], ())
        folded = None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        return min((float(at) for at in (hour, folded, request) if at is not None), default=None)


def _sum(names: Sequence[str], row: Sequence[Any]) -> Sum:
    groups = dict(zip(names, row, strict=False))
    return Sum(groups, *(int(value) for value in row[len(names) :]))
