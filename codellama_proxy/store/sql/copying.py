"""Copies the rows of an installation from one database to another, of either system.

The tables of both systems have the same columns, but for those that a `Side` fills in by itself. Nothing is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql.queries import Session

# ruff: noqa: S608 - only names from here are inserted

Row = Sequence[Any]


class Table(NamedTuple):
    name: str
    columns: tuple[str, ...]


REQUESTS = "requests"
"""A view on a server, where the rows are in `settled`."""
TABLES = (
    Table(
        "keys",
        ("key_id", "project", "name", "created_at", "expires_at", "blocked", "models", "limits", "metadata"),
    ),
    Table("key_secrets", ("hash", "key_id", "prefix", "expires_at")),
    Table("audit", ("seq", "created_at", "actor", "action", "key_id", "project", "changes")),
    Table(
        REQUESTS,
        (
            *("seq", "request_id", "created_at", "project", "key_id", "user", "session", "agent", "endpoint"),
            *("model_requested", "model", "deployment", "upstream_model", "stream", "status", "http_status"),
            *("attempts", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"),
            *(
                "reasoning_tokens",
                "cost_nanos",
                "saved_nanos",
                "basis",
                "cache",
                "first_ms",
                "total_ms",
                "config",
            ),
            *("hold_nanos", "estimate_nanos", "estimate_tokens"),
        ),
    ),
    Table("request_contents", ("request_id", "content")),
    Table(
        "scopes",
        (
            *("scope", "rpm_level", "tpm_level", "rated_at", "budget_duration", "window_start", "window_end"),
            *("first_seq", "spent_nanos", "held_nanos", "folded_nanos"),
        ),
    ),
    Table(
        "totals",
        (
            *("day", "project", "key_id", "user", "model", "status", "requests", "prompt_tokens"),
            *("completion_tokens", "cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    Table(
        "usage_hours",
        (
            *("hour", "project", "model", "status", "requests", "prompt_tokens", "completion_tokens"),
            *("cost_nanos", "saved_nanos", "unpriced", "first_seq", "last_seq"),
        ),
    ),
    Table(
        "usage_models",
        (
            *("day", "project", "model", "status", "requests", "prompt_tokens", "completion_tokens"),
            *("cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    Table(
        "usage_days",
        (
            *("day", "project", "key_id", "user", "session", "agent", "model", "status", "requests"),
            *("prompt_tokens", "completion_tokens", "cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    Table(
        "usage_users",
        (
            *("day", "project", "key_id", "user", "model", "status", "requests"),
            *("prompt_tokens", "completion_tokens", "cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    Table(
        "usage_keys",
        (
            *("day", "project", "key_id", "model", "status", "requests"),
            *("prompt_tokens", "completion_tokens", "cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    Table(
        "usage_user_hours",
        (
            *("hour", "project", "key_id", "user", "model", "status", "requests"),
            *("prompt_tokens", "completion_tokens", "cost_nanos", "saved_nanos", "unpriced"),
        ),
    ),
    *(
        Table(
            name,
            (
                *(time, "project", "session", "agent", "requests", "prompt_tokens", "completion_tokens"),
                *("cost_nanos", "saved_nanos", "unpriced"),
            ),
        )
        for name, time in (("usage_sessions", "day"), ("usage_session_hours", "hour"))
    ),
    Table("outbox", ("id", "kind", "request_id", "body", "tries", "next_at")),
    Table("tracked", ("request_id", "service_id", "tracked_at")),
    Table("configurations", ("id", "digest", "text", "loaded_at")),
    Table("ui_sessions", ("id_hash", "secret_hash", "master_mark", "secure", "created_at", "seen_at")),
    Table("used_forms", ("token", "used_at")),
    Table("reloads", ("seq", "at", "digest", "ok", "lines")),
)
ONCE = (
    Table("installation", ("name", "value")),
    Table("rolled_up", ("upto",)),
    Table("usage_keys_from", ("day", "project", "key_id")),
    Table("hours_filled_from", ("seq",)),
)
"""Tables with values that a new database has already; they are replaced."""
_DAYS = "select distinct cast(created_at as integer) / 86400 from requests order by 1"
_NO_DATE = "select request_id from requests where created_at < 0 or created_at >= 253402300800 limit 1"
_SUMS = """
select project, date(created_at, 'unixepoch') as day, count(*), coalesce(sum(cost_nanos), 0)
from requests group by 1, 2 order by 1, 2
"""


class Side(Protocol):
    """A database that is copied from or to. No process serves on it."""

    @property
    def label(self) -> str: ...

    @property
    def db(self) -> Session: ...

    def prepare(self, days: Sequence[int]) -> None:
        """Called before the first row. `days`: since 1970, those with requests."""

    def stream(self, sql: str) -> Iterator[Row]:
        """The rows of a query, a few in memory at a time."""

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> int:
        """Insert rows into a table; returns their number."""

    def finish(self) -> None:
        """Called after the last row: sequences go on after it."""


def copy(source: Side, target: Side) -> dict[str, int]:
    """Copy every row; returns the number of rows by table. Raises `StoreError` if the target is not empty."""
    undated = source.db.execute(_NO_DATE).fetchone()
    if undated is not None:
        raise StoreError(
            f"{source.label} has a request whose created_at is not in the years 1970 to 9999: {undated[0]}; "
            "correct its row first"
        )
    for name in ("keys", REQUESTS, "totals"):
        if target.db.execute(f"select 1 from {name} limit 1").fetchone() is not None:
            raise StoreError(f"{target.label} is not empty; nothing was copied")
    copied = {}
    for name, _ in ONCE:
        target.db.execute(f"delete from {name}")
    target.prepare([int(day) for (day,) in source.db.execute(_DAYS).fetchall()])
    for name, columns in (*ONCE, *TABLES):
        rows = source.stream(f"select {', '.join(columns)} from {name} order by {columns[0]}")
        copied[name] = target.insert(name, columns, rows)
    target.finish()
    if wrong := differences(source.db, target.db):
        raise StoreError(f"the copy is not complete: {', '.join(wrong[:3])} differs")
    return copied


def differences(source: Session, target: Session) -> list[str]:
    """Projects and days whose number or cost of requests differs."""
    first, second = (
        {(project, day): (count, cost) for project, day, count, cost in db.execute(_SUMS).fetchall()}
        for db in (source, target)
    )
    days = sorted(first.keys() | second.keys())
    return [
        f"{project} on {day}"
        for project, day in days
        if first.get((project, day)) != second.get((project, day))
    ]
