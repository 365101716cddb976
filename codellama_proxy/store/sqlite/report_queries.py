"""The SQL behind `store.reports`.

Old requests are stored as daily totals only, so sums read both tables; a folded day is included if any part of it is
in the time range of the filters. Daily totals have no sessions and agents: they belong to the groups without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codellama_proxy.core.clock import iso
from codellama_proxy.limits.rates import user_name
from codellama_proxy.limits.windows import DAY, LAST_MOMENT
from codellama_proxy.store.reports import LOG_COLUMNS, REQUEST_COLUMNS, Filters, in_order
from codellama_proxy.store.sqlite.queries import Query, load, where

SQL = load("report_queries")
LAST_MIDNIGHT = LAST_MOMENT // DAY * DAY
"""Unix seconds of the last midnight that can be formatted as a date."""

# The expressions of groups in `requests` and in `totals`, where an empty string means none.
_IN_REQUESTS = {"key": "key_id", "day": "date(created_at, 'unixepoch')"}
_IN_TOTALS = {
    "key": "nullif(key_id, '')",
    "user": "nullif(user, '')",
    "model": "nullif(model, '')",
    "session": "null",
    "agent": "null",
}


def logs_query(filters: Filters, page: int, size: int) -> Query:
    which, values = _requests_where(filters)
    return SQL["logs"].format(columns=", ".join(LOG_COLUMNS), where=which), [*values, size, (page - 1) * size]


def before_query(filters: Filters, seq: int, size: int) -> Query:
    """Rows older than `seq`, newest first."""
    which, values = _requests_where(filters)
    return SQL["before"].format(columns=", ".join(LOG_COLUMNS), where=which), [*values, seq, size]


def count_query(filters: Filters) -> Query:
    which, values = _requests_where(filters)
    return SQL["count"].format(where=which), values


def request_query(request_id: str) -> Query:
    return SQL["whole"].format(columns=", ".join(REQUEST_COLUMNS)), [request_id]


def after_query(seq: int, size: int) -> Query:
    """Rows newer than `seq`, oldest first, each preceded by its `seq`."""
    return SQL["after"].format(columns=", ".join(LOG_COLUMNS)), [seq, size]


def spend_query(group_by: Sequence[str], filters: Filters) -> Query:
    """Sums by any of `GROUPS`; one row if there is no group."""
    names = in_order(group_by)
    requests, values = _requests_where(filters)
    totals, more = _totals_where(filters)
    sql = SQL["spend"].format(
        names="".join(f"{name}_, " for name in names),
        of_requests=_columns((_IN_REQUESTS.get(name, name), name) for name in names),
        of_totals=_columns((_IN_TOTALS.get(name, name), name) for name in names),
        requests=requests,
        totals=totals,
        order=f"group by {_positions(names)} order by {_positions(names)}" if names else "",
    )
    return sql, values + more


def spend_page_query(group_by: Sequence[str], filters: Filters, page: int, size: int) -> Query:
    """One page of `spend_query`, and the sums over all groups; parsed by `page_of_groups`."""
    sql, values = spend_query(group_by, filters)
    names = in_order(group_by)
    whole = SQL["spend_page"].format(
        spend=sql,
        nulls="null, " * len(names),
        order="order by " + _positions(names, 2) if names else "",
    )
    return whole, [*values, size, (page - 1) * size]


def _positions(names: Sequence[str], first: int = 1) -> str:
    return ", ".join(str(position) for position in range(first, first + len(names)))


def _columns(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{column} as {name}_, " for column, name in named)


def _requests_where(filters: Filters) -> Query:
    return where(
        ("project = ?", filters.project),
        ("key_id = ?", filters.key_id),
        ("model = ?", filters.model),
        ("user = ?", None if filters.user is None else user_name(filters.user)),
        ("status = ?", filters.status),
        ("session = ?", filters.session),
        ("agent = ?", filters.agent),
        ("request_id = ?", filters.request_id),
        ("created_at >= ?", filters.start),
        ("created_at < ?", filters.end),
    )


def _totals_where(filters: Filters) -> Query:
    if any(one is not None for one in (filters.request_id, filters.session, filters.agent)):
        return "0", []
    return where(
        ("project = ?", filters.project),
        ("key_id = ?", filters.key_id),
        ("model = ?", filters.model),
        ("user = ?", None if filters.user is None else user_name(filters.user)),
        ("status = ?", filters.status),
        ("day >= ?", None if filters.start is None else iso(filters.start)[:10]),
        ("day < ?", _day_after(filters.end)),
    )


def _day_after(end: float | None) -> str | None:
    """The first day that begins at or after `end`; `None` if it cannot be formatted."""
    return None if end is None or end > LAST_MIDNIGHT else iso(end + DAY - 1)[:10]
