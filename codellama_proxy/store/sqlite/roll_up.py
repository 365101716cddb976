"""Adds settled requests to the sums that reports read."""

from __future__ import annotations

import sqlite3

from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.usage_totals import BATCH_ROWS
from codellama_proxy.store.sqlite.scope_rows import SQL


def roll_up(db: sqlite3.Connection, rows: int = BATCH_ROWS) -> int:
    """Add up to `rows` requests, before the first one that is held; returns how far the sequence advanced.

    The requests are grouped first, so that each is read once and not once for every table of sums.
    """
    (before,) = db.execute(usage_totals.SQL["upto"]).fetchone()
    (upto,) = db.execute(usage_totals.SQL["next_batch"], {"upto": before, "rows": rows}).fetchone()
    if upto is None:
        return 0
    db.execute(SQL["make_grouped"])
    db.execute(SQL["group_requests"], {"after": before, "upto": upto})
    usage_totals.add(db, before, upto, usage_totals.GROUPED)
    db.execute(SQL["drop_grouped"])
    return int(upto) - int(before)
