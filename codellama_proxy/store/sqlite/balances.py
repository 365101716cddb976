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
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain, takewhile
from typing import Any

from codellama_proxy.core.clock import iso
from codellama_proxy.core.snapshot import Limits
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import UNRATED, Rates, ScopeLimits, refill, split_scope
from codellama_proxy.limits.windows import Window, is_rolling, turned, window
from codellama_proxy.store.sqlite.queries import load

SQL = load("ledger")
MAX_SCOPES = 4
"""Of one request."""
COLUMNS = 11
"""Of a row of `scopes`."""
MAX_CACHED_BALANCES = 50_000
"""Accounts in memory between two transactions; those unused for longest are read again when needed."""
RATES_SECONDS = 1.0
"""How long a change of rates alone may stay unwritten."""
ROWS_PER_STATEMENT = (64, 16, 4, 1)

# Selects the rows of `requests` and of `totals` that belong to a scope.
_WHERE = {
    "global": "1",
    "project": "project = :project",
    "key": "key_id = :key_id",
    "user": "user = :user and project = :project",
}


class ScopeBalance:
    """One row of `scopes` in memory; `first_seq` is `None` before the scope's first budget. Nano-USD."""

    __slots__ = (
        "changed",
        "duration",
        "first_seq",
        "folded",
        "held",
        "limits",
        "rates",
        "rates_before",
        "running",
        "spent",
        "window",
    )

    def __init__(self) -> None:
        self.rates = self.rates_before = UNRATED
        """Now, and when the present transaction or savepoint began."""
        self.limits: Limits | None = None
        """Those of the latest admission, if any."""
        self.duration: str | None = None
        self.window: Window | None = None
        self.first_seq: int | None = None
        self.spent = self.held = self.folded = 0
        self.running: int | None = None
        """Running requests: counted from the rows at the first use, then in memory; `None` before."""
        self.changed = False
        """More than the rates has to be written."""

    def limited(self, limits: Limits, rates: Rates) -> None:
        """Note the limits of an admitted request, and the levels it left."""
        self.limits = limits
        self.rates = rates

    def admitted(self, hold: int) -> None:
        """Add a request. `hold`: nano-USD."""
        if hold and self.first_seq is not None:
            self.held += hold
            self.changed = True
        if self.running is not None:
            self.running += 1

    def is_full(self, now: float) -> bool:
        """Whether its rates have refilled to their limits."""
        limits = self.limits
        if limits is None:
            return False
        rpm, tpm, _ = refill(self.rates, limits, now)
        return rpm == limits.rpm_limit and tpm == limits.tpm_limit

    def counts(self, seq: int) -> bool:
        """Whether the budget's present window includes the request."""
        return self.first_seq is not None and self.first_seq <= seq

    def extended(self, seq: int, hold: int) -> None:
        """Increase the hold of an admitted request."""
        if hold and self.counts(seq):
            self.held += hold
            self.changed = True

    def settled(self, seq: int, hold: int, cost: int, tokens: int) -> None:
        """Replace a hold by the cost, if the window includes the request; return `tokens` to the token rate."""
        if self.counts(seq):
            self.held -= hold
            self.spent += cost
            self.changed = True
        rpm, tpm, at = self.rates
        if tokens and tpm is not None:
            self.rates = Rates(rpm, tpm + tokens, at)
        if self.running is not None:
            self.running -= 1


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
        self._open: dict[str, ScopeBalance] = {}
        """Of those, what the present transaction touches."""
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
            account = self._open.get(scope)
            if account is not None:
                self._rates[scope] = account.rates_before
            elif scope in self._kept:
                self._rates[scope] = self._kept[scope].rates
        self._kept.clear()
        self._open.clear()

    def flush(self, db: sqlite3.Connection) -> None:
        """Write back what changed, but rates alone only when they are due."""
        now = self._clock()
        self._write(db, now, now - RATES_SECONDS)

    def flush_all(self, db: sqlite3.Connection) -> None:
        """Write back everything that changed."""
        self._write(db, self._clock(), math.inf)

    def _write(self, db: sqlite3.Connection, now: float, before: float) -> None:
        written = {}
        for scope, account in self._open.items():
            if account.changed:
                written[scope] = account
                account.changed = False
            elif account.rates is not account.rates_before:
                self._unwritten.setdefault(scope, now)
        self._open.clear()
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
        opened = self._open
        try:
            return [opened[scope] for scope in ids]
        except KeyError:
            return self._opened(db, ids)

    def _opened(self, db: sqlite3.Connection, ids: tuple[str, ...]) -> list[ScopeBalance]:
        kept = self._kept
        self._read(db, tuple([scope for scope in ids if scope not in kept]))
        for scope in ids:
            if scope not in self._open:
                account = self._open[scope] = kept[scope]
                account.rates_before = account.rates
                kept.move_to_end(scope)
        return [self._open[scope] for scope in ids]

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


def standing(db: sqlite3.Connection, scope: ScopeLimits, account: ScopeBalance, now: float) -> ScopeState:
    """The scope's state at `now`: rate levels refilled, and the budget's present window opened."""
    limits = scope.limits
    if limits.max_budget is not None:
        _open_window(db, scope.id, account, limits, now)
    if limits.max_parallel_requests is not None and account.running is None:
        account.running = int(_one(db, "running", scope.id))
    return ScopeState(
        scope,
        refill(account.rates, limits, now),
        account.running or 0,
        account.spent,
        account.held,
        account.window.end if account.window else None,
    )


def _open_window(
    db: sqlite3.Connection, scope: str, account: ScopeBalance, limits: Limits, now: float
) -> None:
    """Turn the account to the window of `now`. It stays turned when the request is refused: it cost sums."""
    opened, duration = account.window, limits.budget_duration
    if opened is None or account.duration != duration:
        # Rows from the future, of a clock that was wrong, count: a changed limit forgets nothing.
        _sum_up(db, scope, account, window(duration, now, _anchor(db, scope, duration, now)), math.inf)
        account.duration = duration
    elif not opened.contains(now):
        now_open = turned(opened, duration, now)
        if now_open.start > opened.start:
            _sum_up(db, scope, account, now_open, now_open.end or math.inf)
        account.window = now_open
        account.changed = True


def _anchor(db: sqlite3.Connection, scope: str, duration: str | None, now: float) -> float:
    """When the scope's windows begin: at its first use if they are rolling, else at `now`."""
    if not is_rolling(duration):
        return now
    first = _one(db, "first_use", scope)
    return now if first is None else float(first)


def _sum_up(db: sqlite3.Connection, scope: str, account: ScopeBalance, opened: Window, end: float) -> None:
    """Set the window, with the sums of what its requests before `end` spent and hold."""
    last = _one(db, "before_window", scope, start=opened.start, end=end)
    first_seq = 0 if last is None else last + 1
    spent, held = scope_sum(db, "booked", scope, first_seq=first_seq)
    # Folded days are indivisible: a rolling window that began within one includes all of it.
    folded = _one(db, "folded", scope, day=iso(max(opened.start, 0.0))[:10])
    # Assigned last, so that a failed query leaves the balance unchanged.
    account.first_seq, account.spent, account.held, account.folded = first_seq, spent + folded, held, folded
    account.window = opened
    account.changed = True


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


def scope_sum(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> tuple[int, ...]:
    """The first row of a query over the requests of one scope; empty if there is none."""
    return tuple(_row(db, name, scope, **values) or ())


def _one(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> Any:
    row = _row(db, name, scope, **values)
    return None if row is None else row[0]


def _row(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> Any:
    kind, parts = _parts(scope)
    return db.execute(_scoped(name, kind), {**parts, **values}).fetchone()


def _scoped(name: str, kind: str) -> str:
    """The query for one kind of scope; only constant text is inserted."""
    return SQL[name].replace("{scope}", _WHERE[kind])


def _parts(scope: str) -> tuple[str, Mapping[str, str]]:
    kind, owner, user = split_scope(scope)
    return kind, {"project": owner, "key_id": owner, "user": user}
