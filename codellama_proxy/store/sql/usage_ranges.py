"""Which sums and which rows of `requests` add up to the requests of a report. Pure.

A time range is split: whole days come from the sums by day, whole hours at both ends from sums by hour, if these have
the groups, the rest from the rows of those hours, and what is not in the sums yet from the rows after
`rolled_up.upto`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.reports import TIME_GROUPS, Filters


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
USER_HOURS = UsageTable("usage_user_hours", "hour", HOUR, USERS.names)
SESSIONS = UsageTable("usage_sessions", "day", DAY, ("project", "session", "agent"))
SESSION_HOURS = UsageTable("usage_session_hours", "hour", HOUR, SESSIONS.names)
DAYS = UsageTable("usage_days", "day", DAY, ("project", "key", "user", "session", "agent", "model", "status"))
FILLED_BY_ROWS = (USER_HOURS, SESSION_HOURS)
"""Without the requests up to the sequence in `hours_filled_from`, until a database of an older version is filled."""
_BY_DAY = (MODELS, KEYS, USERS, SESSIONS, DAYS)
_BY_HOUR = (HOURS, USER_HOURS, SESSION_HOURS)


def table_for(group_by: Collection[str], filters: Filters) -> UsageTable | None:
    """The smallest table with all groups and filters; `None` if there is none, or an index has the few rows."""
    if filters.request_id is not None or filters.session is not None:
        return None
    if set(group_by).intersection(TIME_GROUPS):
        return hours_for(group_by, filters)
    if filters.agent is not None:  # an index of this table has it
        return DAYS
    return _first_with(_needed(group_by, filters), _BY_DAY)


def hours_for(group_by: Collection[str], filters: Filters) -> UsageTable | None:
    """The smallest table of hours with all groups and filters."""
    return _first_with(_needed(group_by, filters), _BY_HOUR)


def _needed(group_by: Collection[str], filters: Filters) -> set[str]:
    """The columns that a table of sums must have, besides its time."""
    filtered = {name for name, value in filters._asdict().items() if value is not None}
    columns = {"key" if name == "key_id" else name for name in filtered.union(group_by)}
    return columns - {"request_id", "start", "end", "day", *TIME_GROUPS}


def _first_with(needed: set[str], tables: Sequence[UsageTable]) -> UsageTable | None:
    return next((table for table in tables if needed.issubset(table.names)), None)


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
