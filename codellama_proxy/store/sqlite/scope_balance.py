"""The balance of one scope: its window, its rates, and the sums of its rows. Used on the writer's thread."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.clock import iso
from codellama_proxy.core.snapshot import Limits
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import UNRATED, Rates, ScopeLimits, refill, split_scope
from codellama_proxy.limits.windows import Window, is_rolling, turned, window
from codellama_proxy.store.sql.queries import load

SQL = load("ledger", "codellama_proxy.store.sqlite")

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


def row_of(scope: str, account: ScopeBalance) -> tuple[Any, ...]:
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
