"""Check balances against their rows, and fold old rows into daily totals without changing a sum."""

from __future__ import annotations

import sqlite3

from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sqlite.scope_rows import SQL, ScopeRows

BATCH_ROWS = 200
"""Rows folded in one transaction; delays other writes by about 10 ms."""


def reconcile(db: sqlite3.Connection) -> list[Difference]:
    """Compare every balance of a budget, and the sums by hour and day, with their rows; returns the differences."""
    db.execute("begin")
    try:
        checked = [_checked(db, *row) for row in db.execute(SQL["all_scopes"]).fetchall()]
        sums = usage_totals.differences(db)
    finally:
        db.execute("rollback")
    return [difference for difference in checked if difference is not None] + sums


def _checked(
    db: sqlite3.Connection, scope: str, first_seq: int, spent: int, held: int, folded: int
) -> Difference | None:
    booked, holding = ScopeRows(db).booked(scope, first_seq)
    if (spent, held) == (booked + folded, holding):
        return None
    return Difference(scope, spent, held, booked + folded, holding)


def fold(db: sqlite3.Connection, before: float) -> int:
    """Fold up to `BATCH_ROWS` of the oldest rows, before the first one newer than `before` or held; their number."""
    upto, count = 0, 0
    for seq, created_at, status in db.execute(SQL["fold_batch"], (BATCH_ROWS,)).fetchall():
        if status == "held" or created_at >= before:
            break
        upto, count = seq, count + 1
    if not count:
        return 0
    for scope, first_seq in db.execute(SQL["fold_scopes"], (upto,)).fetchall():
        nanos = ScopeRows(db).spent(scope, first_seq, upto)
        db.execute(SQL["folded_more"], {"nanos": nanos, "scope": scope})
    usage_totals.take_away(db, upto)
    for name in ("fold_totals", "drop_contents", "drop_requests"):
        db.execute(SQL[name], {"upto": upto})
    return count
