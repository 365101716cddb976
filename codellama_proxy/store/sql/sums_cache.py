"""Sums that were read before, brought up to date by reading only the requests since then.

A request in the sums (up to `rolled_up.upto`) is settled and does not change any more, so sums up to some sequence stay
right; each later answer adds the requests after it, whatever their state. Requests that retention removes stay in the
daily totals, but of whole days: when the oldest request is another one, everything is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from codellama_proxy.store.overviews import Among
from codellama_proxy.store.reports import Filters, in_order
from codellama_proxy.store.sql.overview_sums import newer_query, settled_query

MAX_ENTRIES = 32
MAX_CACHED_GROUPS = 20_000
"""Of one answer: a month of 200 keys by day and status."""
MAX_ALL_GROUPS = 100_000
"""Of all answers, at about 400 bytes each."""

Read = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""All rows of a statement."""
Amounts = tuple[int, ...]
Groups = Mapping[tuple[Any, ...], Amounts]


class _Asked(NamedTuple):
    names: tuple[str, ...]
    filters: Filters
    among: Among | None


class _Entry(NamedTuple):
    """Sums over the settled requests up to a sequence."""

    upto: int
    first: int
    """The sequence of the oldest request then."""
    groups: Groups


class SumsCache:
    """The amounts of `Sum` by the values of groups, in the order of `in_order`."""

    def __init__(
        self,
        read: Read,
        entries: int = MAX_ENTRIES,
        groups: int = MAX_CACHED_GROUPS,
        all_groups: int = MAX_ALL_GROUPS,
    ) -> None:
        self._read = read
        self._most = entries
        self._most_groups = groups
        self._most_of_all = all_groups
        self._entries: OrderedDict[_Asked, _Entry] = OrderedDict()

    async def sums(
        self, group_by: Sequence[str], filters: Filters, among: Among | None = None
    ) -> Groups | None:
        """All groups; `None` for what is not kept: too many groups, or read from few rows."""
        names = tuple(in_order(group_by))
        asked = _Asked(names, filters, among)
        known = self._entries.get(asked)
        if known is not None:
            found = await self._up_to_date(asked, known)
            if found is not None:
                return found
        query = settled_query(names, filters, among)
        if query is None:
            return None
        rows = await self._read(*query)
        (head,) = (row for row in rows if row[0])
        settled = {row[3 : 3 + len(names)]: _amounts(row[3 + len(names) :]) for row in rows if not row[0]}
        if len(settled) > self._most_groups:
            return None
        return await self._up_to_date(asked, _Entry(int(head[1]), int(head[2]), settled))

    async def _up_to_date(self, asked: _Asked, entry: _Entry) -> Groups | None:
        """The groups with the requests since; `None` if older requests were removed, or there are none."""
        rows = await self._read(*newer_query(asked.names, asked.filters, entry.upto, asked.among))
        (head,) = (row for row in rows if row[0])
        upto, first = int(head[1]), int(head[2])
        if first != entry.first or not first:
            self._entries.pop(asked, None)
            return None
        start = 4 + len(asked.names)
        parts = [(bool(row[3]), row[4:start], _amounts(row[start:])) for row in rows if not row[0]]
        settled = _added(entry.groups, ((group, more) for is_settled, group, more in parts if is_settled))
        self._keep(asked, _Entry(max(upto, entry.upto), first, settled))
        return _added(settled, ((group, more) for is_settled, group, more in parts if not is_settled))

    def _keep(self, asked: _Asked, entry: _Entry) -> None:
        """Another reader may have kept a newer one in the meantime; either is right."""
        self._entries[asked] = entry
        self._entries.move_to_end(asked)
        kept = sum(len(one.groups) for one in self._entries.values())
        while len(self._entries) > self._most or kept > self._most_of_all:
            _, dropped = self._entries.popitem(last=False)
            kept -= len(dropped.groups)


def _added(groups: Groups, parts: Iterable[tuple[tuple[Any, ...], Amounts]]) -> Groups:
    added = list(parts)
    if not added:
        return groups
    found = dict(groups)
    for group, more in added:
        known = found.get(group)
        found[group] = more if known is None else tuple(map(sum, zip(known, more, strict=True)))
    return found


def _amounts(row: Sequence[Any]) -> Amounts:
    return tuple([int(value) for value in row])
