"""`scope_balance.ScopeRows` on a connection: what the rows of one scope say."""

from __future__ import annotations

import sqlite3
from typing import Any

from codellama_proxy.store.sql.queries import load
from codellama_proxy.store.sql.scope_queries import ScopeQueries, scoped

SQL = load("ledger", "codellama_proxy.store.sqlite")

# Selects the rows of `requests` and of `totals` that belong to a scope.
_WHERE = {
    "global": "1",
    "project": "project = :project",
    "key": "key_id = :key_id",
    "user": "user = :user and project = :project",
}


class ScopeRows(ScopeQueries):
    """Reads within the present transaction of `db`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def spent(self, scope: str, first_seq: int, upto: int) -> int:
        """What the requests of a scope between two sequences, inclusive, have spent, in nano-USD."""
        return int(self._one("fold_scope", scope, first_seq=first_seq, upto=upto))

    def _row(self, name: str, scope: str, **values: Any) -> Any:
        return self._db.execute(*scoped(SQL[name], _WHERE, scope, **values)).fetchone()
