"""Which sums and which rows of `requests` add up to the requests of a report. Pure.

A time range is split: whole hours or days come from the sums, the rest at both ends from the rows of those hours,
and what is not in the sums yet from the rows after `rolled_up.upto`. At the ends of whole days, whole hours come from
the sums by hour if these have the groups.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.reports import TIME_GROUPS, Filters

_IN_MODELS = frozenset({"day", "project", "model", "status"})
_IN_HOURS = frozenset({*TIME_GROUPS, *_IN_MODELS})
_IN_KEYS = frozenset({"day", "project", "key", "model", "status"})
_IN_USERS = frozenset({"user", *_IN_KEYS})


class UsageTable(NamedTuple):
    """A table of sums."""

    name: str
    time: str
    """The column with the start of the hour or day, in unix seconds."""
    unit: int
    """Seconds."""
    names: tuple[str, ...]
    """The groups that follow `time` in the primary key, in its order."""

    def prefix(self, group_by: Collection[str]) -> tuple[str, ...]:
        """The groups with which the primary key begins, up to the last one of `group_by`: summed without a sort.

        All names if only the last would be left out: that joins few rows, and takes a third of the time of a report.
        """
        count = max(
            (self.names.index(name) + 1 for name in group_by if name not in ("day", *TIME_GROUPS)), default=0
        )
        return self.names[: count + 1] if count + 1 == len(self.names) else self.names[:count]


class Split(NamedTuple):
    """A time range in unix seconds; `None` is open. `first` and `last` are multiples of the table's unit."""

    first: int | None
    last: int | None
    edges: tuple[tuple[float, float], ...]
    """Ranges outside of them, from each start to before its end."""


COLUMNS = {"key": "key_id"}
"""The columns of groups with another name."""
HOURS = UsageTable("usage_hours", "hour", HOUR, ("project", "model", "status"))
MODELS = UsageTable("usage_models", "day", DAY, ("project", "model", "status"))
KEYS = UsageTable("usage_keys", "day", DAY, ("project", "key", "model", "status"))
"""Complete from a day on, which `usage_keys_from` has; until a database of an older version is filled."""
USERS = UsageTable("usage_users", "day", DAY, ("project", "key", "user", "model", "status"))
DAYS = UsageTable("usage_days", "day", DAY, ("project", "key", "user", "session", "agent", "model", "status"))


def table_for(group_by: Collection[str], filters: Filters) -> UsageTable | None:
    """The table with all groups and filters; `None` if there is none, or the rows are few and an index has them."""
    if filters.request_id is not None or filters.session is not None:
        return None
    groups = frozenset(group_by)
    if filters.user is None and filters.agent is None:
        if filters.key_id is None and groups <= _IN_HOURS:
            return MODELS if groups <= _IN_MODELS else HOURS
        if groups <= _IN_KEYS:
            return KEYS
    if groups.intersection(TIME_GROUPS):
        return None
    return USERS if groups <= _IN_USERS and filters.agent is None else DAYS


def split(start: float | None, end: float | None, unit: int) -> Split:
    """The whole units in a range, and what remains of it."""
    first = None if start is None else math.ceil(start / unit) * unit
    last = None if end is None else math.floor(end / unit) * unit
    if start is not None and end is not None and first is not None and last is not None and first > last:
        return Split(first, last, ((start, end),) if start < end else ())
    edges = []
    if start is not None and first is not None and start < first:
        edges.append((start, float(first)))
    if end is not None and last is not None and last < end:
        edges.append((float(last), end))
    return Split(first, last, tuple(edges))
