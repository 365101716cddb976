"""`scope_balance.ScopeRows` on a connection: what the rows of one scope say."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from codellama_proxy.limits.rates import split_scope
from codellama_proxy.store.ledger.scope_balance import WindowSums
from codellama_proxy.store.sql.queries import load

SQL = load("ledger", "codellama_proxy.store.sqlite")

# Selects the rows of `requests` and of `totals` that belong to a scope.
_WHERE = {
    "global": "1",
    "project": "project = :project",
    "key": "key_id = :key_id",
    "user": "user = :user and project = :project",
}


class ScopeRows:
    """Reads within the present transaction of `db`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def running(self, scope: str) -> int:
        return int(self._one("running", scope))

    def first_use(self, scope: str) -> float | None:
        first = self._one("first_use", scope)
        return None if first is None else float(first)

    def window_sums(self, scope: str, start: float, end: float, day: str) -> WindowSums:
        last = self._one("before_window", scope, start=start, end=end)
        first_seq = 0 if last is None else last + 1
        spent, held = scope_sum(self._db, "booked", scope, first_seq=first_seq)
        return WindowSums(first_seq, spent, held, self._one("folded", scope, day=day))

    def _one(self, name: str, scope: str, **values: Any) -> Any:
        row = _row(self._db, name, scope, **values)
        return None if row is None else row[0]


def scope_sum(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> tuple[int, ...]:
    """The first row of a query over the requests of one scope; empty if there is none."""
    return tuple(_row(db, name, scope, **values) or ())


def _row(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> Any:
    kind, parts = _parts(scope)
    return db.execute(_scoped(name, kind), {**parts, **values}).fetchone()


def _scoped(name: str, kind: str) -> str:
    """The query for one kind of scope; only constant text is inserted."""
    return SQL[name].replace("{scope}", _WHERE[kind])


def _parts(scope: str) -> tuple[str, Mapping[str, str]]:
    kind, owner, user = split_scope(scope)
    return kind, {"project": owner, "key_id": owner, "user": user}
