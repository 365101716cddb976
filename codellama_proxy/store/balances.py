"""What each scope has left, as rows of `scopes`; all of it runs on the writer's thread, in its transaction.

Spending is kept from a scope's first budget on. What was spent before is in the rows of `requests`: it is
summed up once, when the budget is new, its duration changes or its window turns, never at a usual admission.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from codellama_proxy.limits import Rates, ScopeLimits, refill
from codellama_proxy.store.queries import load
from codellama_proxy.types import Limits
from codellama_proxy.windows import Window, is_rolling, iso, turned, window

SQL = load("ledger")
MOST_SCOPES = 4

EMPTY = Rates()

# The rows of `requests` and of `totals` that belong to a scope.
_WHERE = {
    "global": "1",
    "project": "project = :project",
    "key": "key_id = :key_id",
    "user": "user = :user and project = :project",
}


@dataclass(frozen=True, slots=True)
class Account:
    """One row of `scopes`. `first_seq` is `None` while spending was never asked for."""

    rates: Rates = EMPTY
    duration: str | None = None
    window: Window | None = None
    first_seq: int | None = None
    spent_nanos: int = 0
    held_nanos: int = 0
    folded_nanos: int = 0

    def after(self, rates: Rates, hold: int) -> Account:
        """As an admission leaves it."""
        held = self.held_nanos if self.first_seq is None else self.held_nanos + hold
        return replace(self, rates=rates, held_nanos=held)

    def row(self, scope: str) -> tuple[Any, ...]:
        opened = self.window
        return (
            scope,
            self.rates.rpm_level,
            self.rates.tpm_level,
            self.rates.rated_at,
            self.duration,
            opened and opened.start,
            opened and opened.end,
            self.first_seq,
            self.spent_nanos,
            self.held_nanos,
            self.folded_nanos,
        )


def accounts(db: sqlite3.Connection, ids: tuple[str, ...]) -> dict[str, Account]:
    """The rows there are of a request's scopes."""
    padded = ids + ids[:1] * (MOST_SCOPES - len(ids))
    return {
        row[0]: Account(
            Rates(row[1], row[2], row[3]),
            row[4],
            None if row[5] is None else Window(row[5], row[6]),
            *row[7:],
        )
        for row in db.execute(SQL["scopes"], padded)
    }


def put(db: sqlite3.Connection, changed: Iterable[tuple[str, Account]]) -> None:
    db.executemany(SQL["put_scope"], [account.row(scope) for scope, account in changed])


def current(db: sqlite3.Connection, scope: ScopeLimits, account: Account | None, now: float) -> Account:
    """The account as it is at `now`: levels refilled; with a budget, the right window opened."""
    account = account or Account()
    rates = refill(account.rates, scope.limits, now)
    if scope.limits.max_budget is not None:
        account = _opened(db, scope.id, account, scope.limits, now)
    return replace(account, rates=rates)


def running(db: sqlite3.Connection, scope: ScopeLimits) -> int:
    """Requests that are held now; counted, so that none can leak. Only looked at where it is limited."""
    if scope.limits.max_parallel_requests is None:
        return 0
    return int(_one(db, "running", scope.id))


def _opened(db: sqlite3.Connection, scope: str, account: Account, limits: Limits, now: float) -> Account:
    duration = limits.budget_duration
    if account.window is None or account.duration != duration:
        return _summed(db, scope, account, duration, window(duration, now, _anchor(db, scope, duration, now)))
    opened = turned(account.window, duration, now)
    if opened.start > account.window.start:
        return _summed(db, scope, account, duration, opened)
    return account if opened is account.window else replace(account, window=opened)


def _anchor(db: sqlite3.Connection, scope: str, duration: str | None, now: float) -> float:
    """The first use of the scope, where its windows are counted from there."""
    if not is_rolling(duration):
        return now
    first = _one(db, "first_use", scope)
    return now if first is None else float(first)


def _summed(
    db: sqlite3.Connection, scope: str, account: Account, duration: str | None, opened: Window
) -> Account:
    """The account with `opened` as its window: what its requests have spent and hold."""
    last = _one(db, "before_window", scope, start=opened.start)
    first_seq = 0 if last is None else last + 1
    spent, held = _row(db, "booked", scope, first_seq=first_seq)
    # Days that were folded are whole: a rolling window that began within one is charged all of it.
    folded = _one(db, "folded", scope, day=iso(max(opened.start, 0.0))[:10])
    return Account(account.rates, duration, opened, first_seq, spent + folded, held, folded)


def scope_sum(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> tuple[int, ...]:
    """The first row of a query about the requests of one scope."""
    return tuple(_row(db, name, scope, **values) or ())


def _one(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> Any:
    row = _row(db, name, scope, **values)
    return None if row is None else row[0]


def _row(db: sqlite3.Connection, name: str, scope: str, **values: Any) -> Any:
    kind, parts = _parts(scope)
    return db.execute(_scoped(name, kind), {**parts, **values}).fetchone()


def _scoped(name: str, kind: str) -> str:
    """The query for one kind of scope: only fixed text goes into it."""
    return SQL[name].replace("{scope}", _WHERE[kind])


def _parts(scope: str) -> tuple[str, Mapping[str, str]]:
    kind, _, name = scope.partition(":")
    project, _, user = name.partition("\x1f")
    return kind, {"project": project, "key_id": name, "user": user}
