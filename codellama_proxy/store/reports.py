"""Reports on the ledger (`/spend`, `/spend/logs`, `/requests`, the command line): filters, groups, JSON formats.

Amounts are nano-USD in rows and USD in JSON. A row is a sequence in the order of `LOG_COLUMNS` or of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.clock import iso_ms
from codellama_proxy.core.money import usd
from codellama_proxy.limits.rates import split_scope

GROUPS = ("project", "key", "model", "user", "day", "status", "session", "agent")
HOUR_GROUP = "hour"
"""A group of the dashboard: unix seconds of the hour's start. Days that were folded belong to their first hour."""
THREE_HOURS_GROUP = "three_hours"
"""The same by three hours."""
TIME_GROUPS = (HOUR_GROUP, THREE_HOURS_GROUP)
_ALL_GROUPS = (*GROUPS, *TIME_GROUPS)
STATUSES = ("ok", "error", "cancelled", "held")
MAX_ROWS = 1000
"""Rows or groups on one page."""

Row = Sequence[Any]

LOG_COLUMNS = (
    "request_id",
    "created_at",
    "project",
    "key_id",
    "user",
    "session",
    "agent",
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
REQUEST_COLUMNS = (*LOG_COLUMNS, "cache_write_tokens", "reasoning_tokens", "hold_nanos")


class Filters(NamedTuple):
    """Which requests to include; `None` matches all. Unix seconds, `start` inclusive, `end` exclusive."""

    project: str | None = None
    key_id: str | None = None
    model: str | None = None
    user: str | None = None
    status: str | None = None
    session: str | None = None
    agent: str | None = None
    request_id: str | None = None
    start: float | None = None
    end: float | None = None


def of_scope(scope: str) -> Filters:
    """The filters for the requests of one scope, by its ID."""
    kind, owner, user = split_scope(scope)
    match kind:
        case "project":
            return Filters(project=owner)
        case "key":
            return Filters(key_id=owner)
        case "user":
            return Filters(project=owner, user=user)
        case _:
            return Filters()


def in_order(group_by: Sequence[str]) -> list[str]:
    """The groups in the order of `GROUPS`, then the hours, which is the order of the columns."""
    return [name for name in _ALL_GROUPS if name in group_by]


def log_row(row: Row) -> dict[str, Any]:
    """A row as in `/spend/logs`."""
    shown = dict(zip(LOG_COLUMNS, row, strict=True))
    return {_SHOWN_AS.get(name, name): _SHOWN.get(name, _as_is)(value) for name, value in shown.items()}


def whole_row(row: Row) -> dict[str, Any]:
    """A row as in `/requests/{request_id}`; the last column is the content, if it was stored."""
    shown = log_row(row[: len(LOG_COLUMNS)])
    more = dict(zip(REQUEST_COLUMNS[len(LOG_COLUMNS) :], row[len(LOG_COLUMNS) :], strict=False))
    shown |= {_SHOWN_AS.get(name, name): _SHOWN.get(name, _as_is)(value) for name, value in more.items()}
    if row[-1] is not None:
        shown["content"] = orjson.loads(row[-1])
    return shown


def summary(group_by: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """All groups of `spend_query` as in `/spend`, and their sums."""
    names = in_order(group_by)
    at = len(names)
    sums = [sum(column) for column in zip(*(row[at:] for row in rows), strict=True)] or [0] * 6
    return _summary(names, rows, sums)


def page_of_groups(group_by: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """One page of groups of `spend_page_query`, the number of all groups, and the sums over all."""
    names = in_order(group_by)
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
    """The cost in nano-USD, from the rows of `spend_query` without groups."""
    return int(rows[0][3])


def _group(names: Sequence[str], row: Row) -> dict[str, Any]:
    requests, prompt, completion, cost, saved, unpriced = row[len(names) :]
    return {
        **dict(zip(names, row, strict=False)),
        "requests": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        # An unknown cost is null, not 0.
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
