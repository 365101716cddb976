"""Balances of scopes as rows, and what the rows of one scope say (`scope_balance.ScopeRows`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from codellama_proxy.limits.rates import Rates, ScopeLimits
from codellama_proxy.limits.windows import Window
from codellama_proxy.store.ledger.scope_balance import ScopeBalance
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql import scope_queries
from codellama_proxy.store.sql.queries import load
from codellama_proxy.store.sql.scope_queries import ScopeQueries

SQL = load("ledger", "codellama_proxy.store.postgres")

# Selects the rows of requests and of `totals` that belong to a scope.
_WHERE = {
    "global": "true",
    "project": "project = %(project)s",
    "key": "key_id = %(key_id)s",
    "user": '"user" = %(user)s and project = %(project)s',
}


class StoredBalance(ScopeBalance):
    """A balance with a row; `verified` is false while the row is new (`unverified` in ledger.sql)."""

    __slots__ = ("duration_since", "running_before", "unlimited_before", "unlimited_since", "verified")

    def __init__(self, row: Sequence[Any]) -> None:
        """`row`: of the statements `lock` and `balance`, from the scope's levels on."""
        super().__init__()
        (
            rpm,
            tpm,
            rated_at,
            running,
            self.duration,
            since,
            start,
            end,
            first_seq,
            *sums,
            verified,
            unlimited,
        ) = row
        if rpm is not None or tpm is not None:
            self.rates = self.rates_before = Rates(rpm, tpm, rated_at)
        self.window = None if start is None else Window(start, end)
        self.first_seq = first_seq
        self.spent, self.held, self.folded = sums
        self.duration_since: float = since
        self.running: int = running
        self.running_before = running
        self.verified = bool(verified)
        self.unlimited_since: float | None = unlimited
        self.unlimited_before = unlimited

    def note_limited(self, limited: bool, now: float) -> None:
        """Note whether a configuration limits the scope of a request that is admitted at `now`."""
        if limited:
            self.unlimited_since = None
        elif self.unlimited_since is None:
            self.unlimited_since = now

    def in_force(self, scope: ScopeLimits, loaded_at: float) -> ScopeLimits:
        """The limits of a configuration loaded at a time, but with the duration of a budget that a later one set.

        Otherwise processes with different configurations would open the window again at every transaction.
        """
        if self.window is None or loaded_at >= self.duration_since:
            return scope
        return scope._replace(limits=replace(scope.limits, budget_duration=self.duration))

    @property
    def touched(self) -> bool:
        """Whether anything has to be written."""
        return (
            self.changed
            or self.rates is not self.rates_before
            or self.running != self.running_before
            or self.unlimited_since != self.unlimited_before
        )

    def row(self, scope: str) -> dict[str, Any]:
        """The columns, for `keep_scopes`. A new row may lack requests that end now: it is summed up again later."""
        rpm, tpm, rated_at = self.rates
        running, held = self.running, self.held
        if not self.verified:
            running, held = max(running, 0), max(held, 0)
        return {
            "scope": scope,
            "rpm_level": rpm,
            "tpm_level": tpm,
            "rated_at": rated_at,
            "running": running,
            "budget_duration": self.duration,
            "duration_since": self.duration_since,
            "window_start": self.window.start if self.window else None,
            "window_end": self.window.end if self.window else None,
            "first_seq": self.first_seq,
            "spent_nanos": self.spent,
            "held_nanos": held,
            "folded_nanos": self.folded,
            "unlimited_since": self.unlimited_since,
        }


class ScopeRows(ScopeQueries):
    """Reads within the present transaction of `db`."""

    def __init__(self, db: PostgresSession) -> None:
        self._db = db

    def _row(self, name: str, scope: str, **values: Any) -> Any:
        return self._db.native(*scoped(SQL[name], scope, **values)).fetchone()


def scoped(sql: str, scope: str, **values: Any) -> tuple[str, dict[str, Any]]:
    """A statement over the requests of one scope, and its values."""
    return scope_queries.scoped(sql, _WHERE, scope, **values)


def rows_json(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows for `json_populate_recordset`. PostgreSQL stores no NUL, and only valid Unicode."""
    listed = list(rows)
    try:
        text = orjson.dumps(listed)
        if b"\\u0000" not in text:
            return text
    except TypeError:  # half of a surrogate pair
        pass
    return orjson.dumps([{name: _storable(value) for name, value in row.items()} for row in listed])


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value
