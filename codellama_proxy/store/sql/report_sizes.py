"""How much a report by groups reads, which is looked at before it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql.queries import Query, where
from codellama_proxy.store.sql.report_queries import SQL, hour_of
from codellama_proxy.store.sql.usage_ranges import HOURS, KEYS, MODELS, USERS, hours_for, split, table_for

MAX_SUMS, MAX_SESSION_SUMS = 200_000, 130_000
"""Sums, and rows at both ends of a time range, that one report reads in 0.3 s, without and with sessions or agents."""
USUAL_GROUPS = 4
"""With more names fewer sums are read: each name costs time, and they make a group of almost every sum."""


def max_sums(group_by: Sequence[str], filters: Filters) -> int:
    """How many sums, and rows at both ends of its time range, a report may read."""
    most = MAX_SUMS if table_for(group_by, filters) in (KEYS, USERS) else MAX_SESSION_SUMS
    return most * USUAL_GROUPS // max(len(group_by), USUAL_GROUPS)


def size_queries(group_by: Sequence[str], filters: Filters) -> Iterator[Query]:
    """How many sums, and rows at both ends of the time range, a report reads; none if they are few for certain.

    Other filters than the project are ignored: what they leave out is read nevertheless.
    """
    most = max_sums(group_by, filters)
    table = table_for(group_by, filters)
    if table is None or table in (HOURS, MODELS) or filters.agent is not None:
        return
    parts = split(filters.start, filters.end, table.unit)
    which, values = where(
        (f"{table.time} >= ?", parts.first),
        (f"{table.time} < ?", parts.last),
        ("project = ?", filters.project),
    )
    yield SQL["size"].format(table=table.name, where=which), [*values, most + 1]
    if hours_for(group_by, filters) is None:
        for start, end in parts.edges:
            which, values = where(
                ("hour >= ?", hour_of(start)), ("hour < ?", math.ceil(end)), ("project = ?", filters.project)
            )
            yield SQL["size_of_edges"].format(where=which), values


def too_many_groups() -> ProxyError:
    """What a client is told who asks for more than `max_sums`."""
    message = "'group_by' makes too many groups: choose fewer names, a project, or a shorter time of whole days (UTC)."
    return ProxyError("invalid_value", message, param="group_by")
