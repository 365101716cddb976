"""Reads the ledger back: the queries behind `/spend`, `/spend/logs` and the CLI, and the shape of answers.

Old requests are only kept as daily totals, so sums read both; a folded day counts if any part of it is asked
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from codellama_proxy.core.money import usd
from codellama_proxy.limits.rates import user_name
from codellama_proxy.limits.windows import DAY, LAST_MOMENT, iso, iso_ms
from codellama_proxy.store.sqlite.queries import Query, load, where

SQL = load("spending")
GROUPS = ("project", "key", "model", "user", "day", "status")
STATUSES = ("ok", "error", "cancelled", "held")
MOST_ROWS = 1000
"""On one page."""
LAST_MIDNIGHT = LAST_MOMENT // DAY * DAY
"""Of the calendar that dates are written in."""

Row = Sequence[Any]

LOG_COLUMNS = (
    "request_id",
    "created_at",
    "project",
    "key_id",
    "user",
    "endpoint",
    "model_requested",
    "model",
    "deployment",
    "upstream_model",
    "stream",
    "status",
    "http_status",
    "attempts",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_nanos",
    "saved_nanos",
    "basis",
    "cache",
    "first_ms",
    "total_ms",
    "config",
)
_WHOLE = (*LOG_COLUMNS, "cache_write_tokens", "reasoning_tokens", "hold_nanos")

# What a group is called in `requests` and in `totals`, where empty text stands for none.
_IN_REQUESTS = {"key": "key_id", "day": "date(created_at, 'unixepoch')"}
_IN_TOTALS = {"key": "nullif(key_id, '')", "user": "nullif(user, '')", "model": "nullif(model, '')"}


@dataclass(frozen=True, slots=True)
class Filters:
    """Which requests are meant; `None`: any. From `start` on, before `end`, in unix seconds."""

    project: str | None = None
    key_id: str | None = None
    model: str | None = None
    user: str | None = None
    status: str | None = None
    request_id: str | None = None
    start: float | None = None
    end: float | None = None


def of_scope(scope: str) -> Filters:
    """The requests of one scope, by its id."""
    kind, _, name = scope.partition(":")
    project, _, user = name.partition("\x1f")
    match kind:
        case "project":
            return Filters(project=name)
        case "key":
            return Filters(key_id=name)
        case "user":
            return Filters(project=project, user=user)
        case _:
            return Filters()


def logs_query(filters: Filters, page: int, size: int) -> Query:
    which, values = _requests_where(filters)
    return SQL["logs"].format(columns=", ".join(LOG_COLUMNS), where=which), [*values, size, (page - 1) * size]


def before_query(filters: Filters, seq: int, size: int) -> Query:
    """Rows older than one, newest first."""
    which, values = _requests_where(filters)
    return SQL["before"].format(columns=", ".join(LOG_COLUMNS), where=which), [*values, seq, size]


def count_query(filters: Filters) -> Query:
    which, values = _requests_where(filters)
    return SQL["count"].format(where=which), values


def request_query(request_id: str) -> Query:
    return SQL["whole"].format(columns=", ".join(_WHOLE)), [request_id]


def after_query(seq: int, size: int) -> Query:
    """Rows younger than one, oldest first, their sequence in front."""
    return SQL["after"].format(columns=", ".join(LOG_COLUMNS)), [seq, size]


def spend_query(group_by: Sequence[str], filters: Filters) -> Query:
    """Sums by any of `GROUPS`; without a group, one row."""
    names = _named(group_by)
    requests, values = _requests_where(filters)
    totals, more = _totals_where(filters)
    sql = SQL["spend"].format(
        names="".join(f"{name}_, " for name in names),
        of_requests=_columns((_IN_REQUESTS.get(name, name), name) for name in names),
        of_totals=_columns((_IN_TOTALS.get(name, name), name) for name in names),
        requests=requests,
        totals=totals,
        order=f"group by {_places(names)} order by {_places(names)}" if names else "",
    )
    return sql, values + more


def spend_page_query(group_by: Sequence[str], filters: Filters, page: int, size: int) -> Query:
    """One page of `spend_query`, and the sums over all of them; read by `page_of_groups`."""
    sql, values = spend_query(group_by, filters)
    names = _named(group_by)
    whole = SQL["spend_page"].format(
        spend=sql,
        nulls="null, " * len(names),
        order="order by " + _places(names, 2) if names else "",
    )
    return whole, [*values, size, (page - 1) * size]


def _named(group_by: Sequence[str]) -> list[str]:
    return [name for name in GROUPS if name in group_by]


def _places(names: Sequence[str], first: int = 1) -> str:
    return ", ".join(str(place) for place in range(first, first + len(names)))


def _columns(named: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{column} as {name}_, " for column, name in named)


def _requests_where(filters: Filters) -> Query:
    return where(
        ("project = ?", filters.project),
        ("key_id = ?", filters.key_id),
        ("model = ?", filters.model),
        ("user = ?", None if filters.user is None else user_name(filters.user)),
        ("status = ?", filters.status),
        ("request_id = ?", filters.request_id),
        ("created_at >= ?", filters.start),
        ("created_at < ?", filters.end),
    )


def _totals_where(filters: Filters) -> Query:
    if filters.request_id is not None:
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
    """The first day that lies wholly after `end`; none if that is no longer in the calendar."""
    return None if end is None or end > LAST_MIDNIGHT else iso(end + DAY - 1)[:10]


# --- answers ------------------------------------------------------------------------------------------------


def log_row(row: Row) -> dict[str, Any]:
    """A row as `/spend/logs` shows it."""
    shown = dict(zip(LOG_COLUMNS, row, strict=True))
    return {_SHOWN_AS.get(name, name): _SHOWN.get(name, _as_is)(value) for name, value in shown.items()}


def whole_row(row: Row) -> dict[str, Any]:
    """A row as `/requests/{request_id}` shows it; the last column is the content, if it was kept."""
    shown = log_row(row[: len(LOG_COLUMNS)])
    more = dict(zip(_WHOLE[len(LOG_COLUMNS) :], row[len(LOG_COLUMNS) :], strict=False))
    shown |= {_SHOWN_AS.get(name, name): _SHOWN.get(name, _as_is)(value) for name, value in more.items()}
    if row[-1] is not None:
        shown["content"] = orjson.loads(row[-1])
    return shown


def summary(group_by: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """Every group of `spend_query`, and their sums."""
    names = _named(group_by)
    at = len(names)
    sums = [sum(column) for column in zip(*(row[at:] for row in rows), strict=True)] or [0] * 6
    return _summary(names, rows, sums)


def page_of_groups(group_by: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """One page of groups out of `spend_page_query`, `total` groups in all, and the sums over those."""
    names = _named(group_by)
    (whole,) = (row for row in rows if row[0] is not None)
    groups = [row[1:] for row in rows if row[0] is None]
    sums = whole[1 + len(names) :]
    return {**_summary(names, groups, sums), "total": whole[0] if names or sums[0] else 0}


def _summary(names: Sequence[str], rows: Sequence[Row], sums: Sequence[int]) -> dict[str, Any]:
    return {
        "data": [_group(names, row) for row in rows] if names or sums[0] else [],
        "total_cost_usd": usd(sums[3]),
        "total_requests": sums[0],
    }


def spent(rows: Sequence[Row]) -> int:
    """The nano-USD in the answer to `spend_query` without groups."""
    return int(rows[0][3])


def _group(names: Sequence[str], row: Row) -> dict[str, Any]:
    requests, prompt, completion, cost, saved, unpriced = row[len(names) :]
    return {
        **dict(zip(names, row, strict=False)),
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        # Unknown is not nothing.
        "cost_usd": None if unpriced and unpriced == requests else usd(cost),
        "saved_usd": usd(saved),
        "unpriced_requests": unpriced,
    }


def _as_is(value: Any) -> Any:
    return value


_SHOWN_AS = {"cost_nanos": "cost_usd", "saved_nanos": "saved_usd", "hold_nanos": "hold_usd"}
_SHOWN: Mapping[str, Callable[[Any], Any]] = {
    "created_at": iso_ms,
    "stream": bool,
    "attempts": lambda text: orjson.loads(text) if text else [],
    "cost_nanos": usd,
    "saved_nanos": usd,
    "hold_nanos": usd,
}
