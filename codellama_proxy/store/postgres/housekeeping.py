"""Sums for reports, retention and partitions. Any worker does it, one at a time."""

from __future__ import annotations

from codellama_proxy.store.postgres.scope_rows import scoped
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.queries import load

SQL = load("housekeeping", "codellama_proxy.store.postgres")
LOCK = 0x636C7079
"""Of the advisory lock that one process at a time holds for a transaction."""
YOUNG_SECONDS = 60
"""Every transaction that drew a sequence this long ago has ended: the timeouts of `beat` say so."""
ROLL_UP_ROWS = 5000
FOLD_ROWS = 1000


def roll_up(db: PostgresSession, rows: int = ROLL_UP_ROWS, young: float = YOUNG_SECONDS) -> int:
    """Add up to `rows` requests to the sums; returns how far the sequence advanced, 0 if another process is at it."""
    with db.transaction():
        if not _alone(db):
            return 0
        (before,) = db.execute(usage_totals.SQL["upto"]).fetchone()
        (upto,) = db.native(SQL["next_batch"], {"upto": before, "rows": rows, "young": young}).fetchone()
        if upto is None:
            return 0
        usage_totals.add(db, before, upto)
        return int(upto) - int(before)


def fold(db: PostgresSession, before: float, rows: int = FOLD_ROWS) -> int:
    """Fold up to `rows` of the oldest rows into daily totals, whole days only; returns their number.

    Stops before the first row that is newer than `before` (unix seconds), and before a running request.
    """
    with db.transaction():
        if not _alone(db):
            return 0
        (first_held,) = db.native(SQL["first_held"]).fetchone()
        before = min(before, db.native(SQL["midnight"]).fetchone()[0])
        upto, count = 0, 0
        for seq, created_at in db.native(SQL["fold_batch"], (rows,)).fetchall():
            if seq >= first_held or created_at >= before:
                break
            upto, count = seq, count + 1
        if count:
            _fold_up_to(db, upto)
        return count


def _fold_up_to(db: PostgresSession, upto: int) -> None:
    for scope, first_seq in db.native(SQL["fold_scopes"], (upto,)).fetchall():
        sql, values = scoped(SQL["fold_scope"], scope, first_seq=first_seq, upto=upto)
        (nanos,) = db.native(sql, values).fetchone()
        db.native(SQL["folded_more"], {"nanos": nanos, "scope": scope})
    usage_totals.take_away(db, upto)
    for name in ("fold_totals", "drop_contents", "drop_requests"):
        db.native(SQL[name], {"upto": upto})


def _alone(db: PostgresSession) -> bool:
    return bool(db.native(SQL["alone"], (LOCK,)).fetchone()[0])
