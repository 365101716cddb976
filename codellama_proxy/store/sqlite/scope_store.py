"""Reads and writes the balances of scopes, within the present transaction of a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import Rates, ScopeLimits
from codellama_proxy.limits.windows import Window
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, is_current, refresh, state
from codellama_proxy.store.sqlite.many_rows import execute_many
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.scope_rows import SQL, ScopeRows

MAX_SCOPES = 4
"""Of one statement."""


def read(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, ScopeBalance]:
    """The balances of scopes by ID; one without a row is empty."""
    found = {scope: ScopeBalance() for scope in ids}
    for start in range(0, len(ids), MAX_SCOPES):
        some = tuple(ids[start : start + MAX_SCOPES])
        for row in db.execute(SQL["scopes"], some + some[:1] * (MAX_SCOPES - len(some))):
            found[row[0]] = _balance(row)
    return found


def read_at_once(reader: Reader, ids: Iterable[str]) -> dict[str, ScopeBalance]:
    """The same on the calling thread, of scopes whose rows are committed. Raises `StoreUnavailableError`."""
    found = {}
    for scope in ids:
        row = reader.at_once(SQL["scope"], {"scope": scope})
        found[scope] = ScopeBalance() if row is None else _balance(row)
    return found


def read_all(db: sqlite3.Connection, most: int) -> dict[str, ScopeBalance] | None:
    """Every balance that has a row; `None` if there are more than `most`."""
    rows = db.execute(SQL["every_scope"], (most + 1,)).fetchall()
    return None if len(rows) > most else {row[0]: _balance(row) for row in rows}


def write(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows from `row_of`, without the folded part, which only `open_windows` and folding change."""
    execute_many(db, SQL["put_scopes"], [(*row, 0) for row in rows])


def open_windows(
    db: sqlite3.Connection, balances: Mapping[str, ScopeBalance], scopes: Iterable[ScopeLimits], now: float
) -> dict[str, ScopeBalance]:
    """Balances that are current, by scope; those whose window opened are written. Changes none of `balances`.

    The sums are of the rows of this moment.
    """
    opened = {}
    for scope in scopes:
        balance = opened[scope.id] = copy(balances[scope.id])
        balance.changed = False
        refresh(balance, scope, now, ScopeRows(db))
        if balance.changed:
            db.execute(SQL["open_scope"], (*row_of(scope.id, balance), balance.folded))
            balance.changed = False
    return opened


def states(db: sqlite3.Connection, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
    """The states of scopes at `now`; writes nothing."""
    found = read(db, [scope.id for scope in scopes])
    for scope in scopes:
        if not is_current(found[scope.id], scope.limits, now):
            refresh(found[scope.id], scope, now, ScopeRows(db))
    return [state(scope, found[scope.id], now) for scope in scopes]


def row_of(scope: str, balance: ScopeBalance) -> tuple[Any, ...]:
    """The columns of a balance, without the folded part."""
    opened = balance.window
    return (
        scope,
        *balance.rates,
        balance.duration,
        opened.start if opened else None,
        opened.end if opened else None,
        balance.first_seq,
        balance.spent,
        balance.held,
    )


def _balance(row: tuple[Any, ...]) -> ScopeBalance:
    balance = ScopeBalance()
    if row[1] is not None or row[2] is not None:
        balance.rates = balance.rates_before = Rates(row[1], row[2], row[3])
    balance.duration = row[4]
    balance.window = None if row[5] is None else Window(row[5], row[6])
    balance.first_seq, balance.spent, balance.held, balance.folded = row[7:]
    return balance
