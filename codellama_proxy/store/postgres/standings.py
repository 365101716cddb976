"""The present state of scopes, read without locks; and the comparison of balances with their rows."""

from __future__ import annotations

from collections.abc import Sequence

from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, refresh, state
from codellama_proxy.store.postgres.scope_rows import SQL, ScopeRows, StoredBalance
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql import usage_totals

_SNAPSHOT = "set transaction isolation level repeatable read, read only"
_NOW = "select extract(epoch from clock_timestamp())::float8"


def standings(db: PostgresSession, scopes: Sequence[ScopeLimits]) -> list[ScopeState]:
    """The scopes' states now, by the database's clock. Nothing is written."""
    with db.transaction(idle_seconds=None):  # it locks nothing
        db.native(_SNAPSHOT)
        (now,) = db.native(_NOW).fetchone()
        found = db.native(SQL["balance"], ([scope.id for scope in scopes],)).fetchall()
        balances: dict[str, ScopeBalance] = {row[1]: StoredBalance(row[2:]) for row in found}
        rows = ScopeRows(db)
        for scope in scopes:
            refresh(balances.setdefault(scope.id, ScopeBalance()), scope, now, rows)
    return [state(scope, balances[scope.id], now) for scope in scopes]


def reconcile(db: PostgresSession) -> list[Difference]:
    """Balances and running requests, and sums by hour and day, that differ from their rows."""
    with db.transaction(idle_seconds=None):  # it locks nothing
        db.native(_SNAPSHOT)
        rows = ScopeRows(db)
        found = []
        for scope, first_seq, spent, held, folded, running in db.native(SQL["all_scopes"]).fetchall():
            if first_seq is not None:
                booked, holding = rows.booked(scope, first_seq)
                if (spent, held) != (booked + folded, holding):
                    found.append(Difference(scope, spent, held, booked + folded, holding))
            if (counted := rows.running(scope)) != running:
                found.append(Difference(f"running requests of {scope}", running, 0, counted, 0))
        return found + usage_totals.differences(db)
