"""The SQL of sums behind `store.reports`.

Sums read the sums of `usage_totals`, and rows only where those do not reach (`usage_ranges`).

Old requests are stored as daily totals only, so sums read them as well; a folded day is included if any part of it is
in the time range of the filters. Daily totals have no sessions and agents: they belong to the groups without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from codellama_proxy.core.clock import iso
from codellama_proxy.limits.rates import user_name
from codellama_proxy.limits.windows import DAY, HOUR, LAST_MOMENT
from codellama_proxy.store.overviews import Among
from codellama_proxy.store.reports import (
    STATUSES,
    TIME_GROUPS,
    Filters,
    in_order,
)
from codellama_proxy.store.sql.queries import Query, load, where
from codellama_proxy.store.sql.usage_ranges import (
    COLUMNS,
    DAYS,
    FILLED_BY_ROWS,
    KEYS,
    Split,
    UsageTable,
    hours_for,
    split,
    table_for,
)

SQL = load("report_queries")
LAST_MIDNIGHT = LAST_MOMENT // DAY * DAY
"""Unix seconds of the last midnight that can be formatted as a date."""

# The expressions of groups in `requests`, in `totals` and in the sums. In the latter, an empty string means none.
IN_REQUESTS = {
    "key": "key_id",
    "day": "date(created_at, 'unixepoch')",
    "hour": "cast(created_at as integer) / 3600 * 3600",
    "three_hours": "cast(created_at as integer) / 10800 * 10800",
}
_IN_USAGE = {
    "key": "nullif(key_id, '')",
    "user": "nullif(user, '')",
    "model": "nullif(model, '')",
    "session": "nullif(session, '')",
    "agent": "nullif(agent, '')",
    "day": "date({time}, 'unixepoch')",
    "hour": "{time}",
    "three_hours": "{time} / 10800 * 10800",
}
_IN_TOTALS = _IN_USAGE | {"session": "null", "agent": "null", "day": "day"}
_IN_TOTALS |= dict.fromkeys(TIME_GROUPS, "cast(strftime('%s', day) as integer)")
_INDEXED = ({"session"}, {"request_id"})
"""Filters that an index answers without reading rows, of few requests."""
# An index of one status is used only if the statement has that status as a constant.
_STATUS = {status: f"status = '{status}' and status = ?" for status in STATUSES}


def spend_query(
    group_by: Sequence[str],
    filters: Filters,
    among: Among | None = None,
    *,
    newer: bool = True,
    ordered: bool = True,
    after: int = 0,
) -> Query:
    """Sums by any of `GROUPS`; one row if there is no group. Without `newer`, only what is in the sums.

    `after`: a sequence up to which everything is in the sums. It changes no result, but a server plans better with it.
    """
    names = in_order(group_by)
    rows, values = rows_query(names, filters, newer=newer, after=after)
    totals, more = _totals_where(filters)
    only, wanted = among_where(among)
    sql = SQL["spend"].format(
        names="".join(f"{name}_, " for name in names),
        rows=rows,
        of_totals=columns_of((_IN_TOTALS.get(name, name), name) for name in names),
        totals=totals,
        among=only,
        order=_grouped(names, ordered=ordered) if names else "",
    )
    return sql, values + more + wanted


def _grouped(names: Sequence[str], *, ordered: bool) -> str:
    return f"group by {positions_of(names)}" + (f" order by {_ordered(names)}" if ordered else "")


def among_where(among: Among | None) -> Query:
    """A clause on the result of the parts."""
    if among is None:
        return "", []
    given = [value for value in among.values if value is not None]
    column, places = f"{among.group}_", ", ".join("?" for _ in given)
    conditions = [f"{column} in ({places})"] if given else []
    conditions += [f"{column} is null"] if None in among.values else []
    return f"where ({' or '.join(conditions) or 'false'})", given


def rows_query(names: Sequence[str], filters: Filters, *, newer: bool = True, after: int = 0) -> Query:
    """Groups and sums of the requests that `requests` still has; a group may come more than once."""
    parts = list(parts_of(names, filters, after))[0 if newer else 1 :]
    return "\n    union all\n    ".join(sql for sql, _ in parts), [
        value for _, values in parts for value in values
    ]


def parts_of(names: Sequence[str], filters: Filters, after: int = 0) -> Iterator[Query]:
    """The requests that are not in the sums yet come first, unless all are read from rows."""
    of_requests = columns_of((IN_REQUESTS.get(name, name), name) for name in names)
    which, values = requests_where(filters)
    table = table_for(names, filters)
    if table is None and (not set(names).intersection(TIME_GROUPS) or is_indexed(filters)):
        yield SQL["of_requests"].format(groups=of_requests, where=which), values
        return
    newer = SQL["newer"].format(where=which)
    yield SQL["of_requests"].format(groups=of_requests, where=newer), [after, *values]
    if table is None:
        yield _of_hours(of_requests, filters)
        return
    yield from _of_table(table, names, filters)


def _of_table(table: UsageTable, names: Sequence[str], filters: Filters) -> Iterator[Query]:
    """The requests of a time range that are in the sums: whole units from a table, the rest from others or rows."""
    of_requests = columns_of((IN_REQUESTS.get(name, name), name) for name in names)
    parts = split(filters.start, filters.end, table.unit)
    if table is KEYS:
        yield _of_usage(KEYS, names, filters, parts, SQL["in_keys"])
        yield _of_usage(DAYS, names, filters, parts, SQL["before_keys"])
    else:
        yield _of_usage(table, names, filters, parts)
    if table in FILLED_BY_ROWS:
        yield _of_hours(of_requests, filters._replace(start=parts.first, end=parts.last), SQL["not_filled"])
    hours = hours_for(names, filters) if table.unit > HOUR else None
    for start, end in parts.edges:
        edge = filters._replace(start=start, end=end)
        if hours is None:
            yield _of_hours(of_requests, edge)
        else:
            yield from _of_table(hours, names, edge)


def _of_usage(
    table: UsageTable, names: Sequence[str], filters: Filters, parts: Split, condition: str = "true"
) -> Query:
    """The part of a sum that is read from a table of sums."""
    which, values = _usage_where(table, filters, parts.first, parts.last)
    of_usage = columns_of((_IN_USAGE.get(name, name).format(time=table.time), name) for name in names)
    prefix = table.prefix(names)
    columns = [table.time, *(COLUMNS.get(name, name) for name in prefix)]
    form = SQL["of_usage" if prefix == table.names else "of_usage_prefix"]
    which = f"{condition} and {which}"
    return form.format(groups=of_usage, table=table.name, where=which, prefix=", ".join(columns)), values


def _of_hours(of_requests: str, filters: Filters, condition: str = "true") -> Query:
    """Of the rows that are in the sums, those of a time range."""
    which, values = requests_where(filters)
    start = 0 if filters.start is None else hour_of(filters.start)
    end = int(LAST_MOMENT) if filters.end is None else math.ceil(filters.end)
    sql = SQL["of_requests"].format(
        groups=of_requests, where=f"{SQL['in_hours']} and {condition} and {which}"
    )
    return sql, [start, end, start, end, *values]


def spend_page_query(
    group_by: Sequence[str],
    filters: Filters,
    page: int,
    size: int,
    among: Among | None = None,
    *,
    after: int = 0,
) -> Query:
    """One page of `spend_query`, and the sums over all groups; parsed by `page_of_groups`."""
    sql, values = spend_query(group_by, filters, among, ordered=False, after=after)
    names = in_order(group_by)
    whole = SQL["spend_page"].format(
        spend=sql,
        nulls="null, " * len(names),
        order="order by " + _ordered(names, 2) if names else "",
    )
    return whole, [*values, size, (page - 1) * size]


def is_indexed(filters: Filters) -> bool:
    """Whether an index has the few requests of exactly these filters."""
    return {name for name, value in filters._asdict().items() if value is not None} in _INDEXED


def positions_of(names: Sequence[str], first: int = 1) -> str:
    return ", ".join(str(position) for position in range(first, first + len(names)))


def _ordered(names: Sequence[str], first: int = 1) -> str:
    return ", ".join(f"{position} nulls first" for position in range(first, first + len(names)))


def columns_of(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{column} as {name}_, " for column, name in named)


def hour_of(moment: float) -> int:
    """The start of an hour. An integer, as the columns: a server's index is not used beside other numbers."""
    return math.floor(moment / HOUR) * HOUR


def requests_where(filters: Filters) -> Query:
    return where(
        *names_where(filters),
        ("key_id = ?", filters.key_id),
        ("session = ?", filters.session),
        ("agent = ?", filters.agent),
        ("user = ?", _stored_user(filters)),
        ("request_id = ?", filters.request_id),
        ("created_at >= ?", filters.start),
        ("created_at < ?", filters.end),
    )


def _usage_where(table: UsageTable, filters: Filters, first: int | None, last: int | None) -> Query:
    return where(
        *names_where(filters),
        ("key_id = ?", filters.key_id),
        ("session = ?", filters.session),
        ("agent <> '' and agent = ?", filters.agent),
        ("user = ?", _stored_user(filters)),
        (f"{table.time} >= ?", first),
        (f"{table.time} < ?", last),
    )


def _totals_where(filters: Filters) -> Query:
    if any(one is not None for one in (filters.request_id, filters.session, filters.agent)):
        return "false", []
    return where(
        *names_where(filters),
        ("key_id = ?", filters.key_id),
        ("user = ?", _stored_user(filters)),
        ("day >= ?", None if filters.start is None else iso(filters.start)[:10]),
        ("day < ?", _day_after(filters.end)),
    )


def names_where(filters: Filters) -> tuple[tuple[str, str | None], ...]:
    """The conditions on the columns that every table has."""
    status = _STATUS.get(filters.status or "", "status = ?")
    return ("project = ?", filters.project), ("model = ?", filters.model), (status, filters.status)


def _stored_user(filters: Filters) -> str | None:
    return None if filters.user is None else user_name(filters.user)


def _day_after(end: float | None) -> str | None:
    """The first day that begins at or after `end`; `None` if it cannot be formatted."""
    return None if end is None or end > LAST_MIDNIGHT else iso(math.ceil(end / DAY) * DAY)[:10]
