"""The SQL of requests behind `store.reports`: pages of `/spend/logs`, and their number."""

from __future__ import annotations

import math

from codellama_proxy.store.reports import LOG_COLUMNS, REQUEST_COLUMNS, Filters
from codellama_proxy.store.sql.queries import Query, where
from codellama_proxy.store.sql.report_queries import (
    SQL,
    hour_of,
    is_indexed,
    names_where,
    requests_where,
    rows_query,
)
from codellama_proxy.store.sql.usage_ranges import HOURS


def logs_query(filters: Filters, page: int, size: int) -> Query:
    which, values = requests_where(filters)
    if _by_hours(filters):
        return _logs_by_time(filters, (which, values), size, (page - 1) * size)
    sql = SQL["logs"].format(columns=", ".join(LOG_COLUMNS), where=which)
    return sql, [*values, size, (page - 1) * size]


def _by_hours(filters: Filters) -> bool:
    """Whether the sums by hour tell where to search. An index has the other filters."""
    bounds = (filters.model, filters.agent, filters.start, filters.end)
    return any(one is not None for one in bounds) or filters.status == "held"


def _logs_by_time(filters: Filters, condition: Query, size: int, skip: int) -> Query:
    which, values = condition
    summed, limits = _summed_where(filters)
    sql = SQL["logs_by_time"].format(columns=", ".join(LOG_COLUMNS), where=which, summed=summed)
    most = skip + size
    return sql, [*values, most, *limits, *limits, *values, most, size, skip]


def before_query(filters: Filters, seq: int, size: int) -> Query:
    """Rows older than `seq`, newest first."""
    which, values = requests_where(filters)
    if _by_hours(filters):
        return _logs_by_time(filters, (f"{which} and seq < ?", [*values, seq]), size, 0)
    return SQL["before"].format(columns=", ".join(LOG_COLUMNS), where=which), [*values, seq, size]


def count_query(filters: Filters, after: int = 0) -> Query:
    """`after`: as `spend_query`."""
    if is_indexed(filters):
        which, values = requests_where(filters)
        return SQL["count_by_index"].format(where=which), values
    sql, values = rows_query((), filters, after=after)
    return SQL["count"].format(rows=sql), values


def request_query(request_id: str) -> Query:
    return SQL["whole"].format(columns=", ".join(REQUEST_COLUMNS)), [request_id]


def after_query(seq: int, size: int) -> Query:
    """Rows newer than `seq`, oldest first, each preceded by its `seq`."""
    return SQL["after"].format(columns=", ".join(LOG_COLUMNS)), [seq, size]


def _summed_where(filters: Filters) -> Query:
    """The sums by hour that can have requests of the filters."""
    return where(
        *names_where(filters),
        (f"{HOURS.time} >= ?", None if filters.start is None else hour_of(filters.start)),
        (f"{HOURS.time} < ?", None if filters.end is None else math.ceil(filters.end)),
        (SQL["since_agent"], filters.agent),
        (SQL["until_agent"], filters.agent),
    )
