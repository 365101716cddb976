"""The balance of each scope, on the writer's thread.

A balance is read once, changed in memory by the requests of its scope, and written back at each commit that changed
it, because many requests share few scopes. The rows of `scopes` are authoritative: if a transaction fails, the
balances in memory are discarded and read again.

Rates alone are written at most `RATES_SECONDS` later, unless they are full again by then, which is what a scope
without a row has: a crash forgets that much of a rate's minute, and no money.

Spending is kept from a scope's first budget on. What was spent before is in the rows of `requests`: it is
summed up once, when the budget is new, its duration changes or its window turns, never at a usual admission.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, takewhile
from typing import Any

from codellama_proxy.limits.rates import Rates, ScopeLimits
from codellama_proxy.limits.windows import Window
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, is_current, refresh
from codellama_proxy.store.sqlite.scope_rows import SQL, ScopeRows

MAX_SCOPES = 4
"""Of one request."""
COLUMNS = 11
"""Of a row of `scopes`."""
MAX_CACHED_BALANCES = 50_000
"""Accounts in memory between two transactions; those unused for longest are read again when needed."""
RATES_SECONDS = 1.0
"""How long a change of rates alone may stay unwritten."""
ROWS_PER_STATEMENT = (64, 16, 4, 1)


class ScopeBalances:
    """The balances in memory."""

    def __init__(
        self,
        most: int = MAX_CACHED_BALANCES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._most = most
        self._clock = clock
        self._wall = wall
        self._kept: OrderedDict[str, ScopeBalance] = OrderedDict()
        """In the order of their last use."""
        self.opened: dict[str, ScopeBalance] = {}
        """Of those, what the present transaction touches: read by `get`."""
        self._unwritten: OrderedDict[str, float] = OrderedDict()
        """Scopes whose rates are not in the file, and since when; the oldest first."""
        self._rates: dict[str, Rates] = {}
        """Of those among them that are not in memory."""

    @property
    def due_in(self) -> float | None:
        """Seconds until rates have to be written; `None` if all are."""
        since = next(iter(self._unwritten.values()), None)
        return None if since is None else since + RATES_SECONDS - self._clock()

    def forget(self) -> None:
        """Discard everything since the last commit or savepoint; called after a failed transaction."""
        for scope in self._unwritten:
            account = self.opened.get(scope)
            if account is not None:
                self._rates[scope] = account.rates_before
            elif scope in self._kept:
                self._rates[scope] = self._kept[scope].rates
        self._kept.clear()
        self.opened.clear()

    def flush(self, db: sqlite3.Connection) -> None:
        """Write back what changed, but rates alone only when they are due."""
        now = self._clock()
        self._write(db, now, now - RATES_SECONDS)

    def flush_all(self, db: sqlite3.Connection) -> None:
        """Write back everything that changed."""
        self._write(db, self._clock(), math.inf)

    def _write(self, db: sqlite3.Connection, now: float, before: float) -> None:
        written = {}
        for scope, account in self.opened.items():
            if account.changed:
                written[scope] = account
                account.changed = False
            elif account.rates is not account.rates_before:
                self._unwritten.setdefault(scope, now)
        self.opened.clear()
        for scope in written:
            self._unwritten.pop(scope, None)
        if self._unwritten:
            written.update(self._overdue(db, before))
        _put(db, [_row_of(scope, account) for scope, account in written.items()])
        self._evict()

    def _overdue(self, db: sqlite3.Connection, before: float) -> dict[str, ScopeBalance]:
        """The accounts whose rates are unwritten since `before` or longer; they no longer count as such."""
        overdue = list(takewhile(lambda scope: self._unwritten[scope] <= before, self._unwritten))
        for scope in overdue:
            if scope not in self._kept:
                self._read(db, (scope,))
            del self._unwritten[scope]
        now = self._wall()
        found = {scope: self._kept[scope] for scope in overdue}
        return {scope: account for scope, account in found.items() if not account.is_full(now)}

    def _evict(self) -> None:
        for _ in range(len(self._kept) - self._most):
            scope, account = self._kept.popitem(last=False)
            if scope in self._unwritten:
                self._kept[scope] = account

    def get(self, db: sqlite3.Connection, ids: tuple[str, ...]) -> list[ScopeBalance]:
        """The balances of scopes by ID; one without a row is empty and is written only if it changes."""
        opened = self.opened
        try:
            return [opened[scope] for scope in ids]
        except KeyError:
            return self._opened(db, ids)

    def refresh(self, db: sqlite3.Connection, scopes: Iterable[ScopeLimits], now: float) -> None:
        """Open the windows of `now` and count running requests where the limits need it. Scopes: read by `get`."""
        for scope in scopes:
            if not is_current(self.opened[scope.id], scope.limits, now):
                refresh(self.opened[scope.id], scope, now, ScopeRows(db))

    def _opened(self, db: sqlite3.Connection, ids: tuple[str, ...]) -> list[ScopeBalance]:
        kept = self._kept
        self._read(db, tuple([scope for scope in ids if scope not in kept]))
        for scope in ids:
            if scope not in self.opened:
                account = self.opened[scope] = kept[scope]
                account.rates_before = account.rates
                kept.move_to_end(scope)
        return [self.opened[scope] for scope in ids]

    def _read(self, db: sqlite3.Connection, ids: tuple[str, ...]) -> None:
        if not ids:
            return
        found = {scope: ScopeBalance() for scope in ids}
        for row in db.execute(SQL["scopes"], ids + ids[:1] * (MAX_SCOPES - len(ids))):
            account = found[row[0]]
            if row[1] is not None or row[2] is not None:
                account.rates = Rates(row[1], row[2], row[3])
            account.duration = row[4]
            account.window = None if row[5] is None else Window(row[5], row[6])
            account.first_seq, account.spent, account.held, account.folded = row[7:]
        if self._rates:
            for scope, account in found.items():
                account.rates = self._rates.pop(scope, account.rates)
        self._kept.update(found)


def _row_of(scope: str, account: ScopeBalance) -> tuple[Any, ...]:
    opened = account.window
    return (
        scope,
        *account.rates,
        account.duration,
        opened.start if opened else None,
        opened.end if opened else None,
        account.first_seq,
        account.spent,
        account.held,
        account.folded,
    )


def _put(db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write the rows in few statements: each one costs more than a row."""
    at = 0
    for count in ROWS_PER_STATEMENT:
        while len(rows) - at >= count:
            db.execute(_put_scopes(count), tuple(chain.from_iterable(rows[at : at + count])))
            at += count


@cache
def _put_scopes(count: int) -> str:
    row = f"({', '.join('?' * COLUMNS)})"
    return SQL["put_scopes"].replace("{rows}", ", ".join([row] * count))
