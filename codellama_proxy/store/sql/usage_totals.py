"""Sums of settled requests by hour and by day, so that reports do not read every row.

They contain the requests up to `rolled_up.upto`; every request up to there is settled and does not change any more.
Reports add the rows after it in the same statement, so their results are exact at any moment, and admission and
settlement pay nothing for them. Requests that retention removes are taken away in the same transaction.

The sums by key came later: a database from before fills them from the sums by day, newest day first, in small batches.
So did those by hour with users and with sessions, which are filled from the requests, newest first.
"""

from __future__ import annotations

from functools import cache

from codellama_proxy.core.clock import iso
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.sql.queries import Session, load
from codellama_proxy.store.sql.usage_ranges import (
    COLUMNS,
    DAYS,
    FILLED_BY_ROWS,
    HOURS,
    KEYS,
    MODELS,
    SESSIONS,
    USERS,
    UsageTable,
)

SQL = load("usage_totals")
TABLES = (HOURS, MODELS, DAYS, USERS, KEYS, SESSIONS, *FILLED_BY_ROWS)
_NEVER_NULL = ("project", "status")
BATCH_ROWS = 1000
"""Requests added in one transaction; delays other writes by about 20 ms, and no request waits for those."""
FILL_ROWS = 500
"""Sums by day that are added to the sums by key in one transaction; those of one key and day are not split."""
GROUPED = "grouped_requests"
"""A table of requests that are summed already by all groups and the hour; `seq` is the last one's of a row."""
COMPLETE = -(2**53)
"""The day in `usage_keys_from` when nothing is left to fill."""


def add(db: Session, after: int, upto: int, table: str = "requests") -> None:
    """Add the requests after one sequence and up to another, which are settled and not in the sums yet.

    `table`: of requests, or `GROUPED`.
    """
    _add(db, +1, after, upto, table)
    db.execute(SQL["advance"], {"upto": upto})


def fill_keys(db: Session, rows: int = FILL_ROWS) -> int:
    """Add about `rows` sums by day to the sums by key; returns 0 if these were complete."""
    day, project, key_id = db.execute(SQL["keys_from"]).fetchone()
    if day == COMPLETE:
        return 0
    after = {"day": day, "project": project, "key_id": key_id}
    found = db.execute(SQL["earlier_keys"], {**after, "rows": rows}).fetchone() or (COMPLETE, "", "")
    batch = dict(zip(after, found, strict=True))
    db.execute(SQL["fill_keys"], batch)
    db.execute(SQL["set_keys_from"], batch)
    return rows


def fill_hours(db: Session, rows: int = BATCH_ROWS) -> int:
    """Add about `rows` requests to the sums by hour that an older version did not have; 0 if these were complete."""
    (upto,) = db.execute(SQL["hours_filled_from"]).fetchone()
    if not upto:
        return 0
    (before,) = db.execute(SQL["earlier_requests"], {"seq": upto, "rows": rows}).fetchone()
    db.execute(SQL["set_hours_filled_from"], {"seq": before})
    for table in FILLED_BY_ROWS:
        db.execute(_statement("add", table), {"sign": +1, "after": before, "upto": upto})
    return rows


def take_away(db: Session, upto: int, table: str = "requests") -> None:
    """Subtract the requests of a table up to a sequence, which are about to be removed."""
    (summed,) = db.execute(SQL["upto"]).fetchone()
    _add(db, -1, 0, min(upto, summed), table)
    for one in TABLES:
        db.execute(_statement("drop_empty", one))


def differences(db: Session) -> list[Difference]:
    """Hours and days whose sums differ from their requests. Reads all rows."""
    return [
        Difference(f"{one.name.removeprefix('usage_')}:{iso(at)}", cost, 0, expected, 0)
        for one in TABLES
        for at, cost, expected in db.execute(_statement("check", one)).fetchall()
    ]


def _add(db: Session, sign: int, after: int, upto: int, table: str = "requests") -> None:
    for one in TABLES:
        db.execute(_statement("add", one, table), {"sign": sign, "after": after, "upto": upto})


@cache
def _statement(form: str, table: UsageTable, requests: str = "requests") -> str:
    """A statement on a table of sums. In these, an empty string means none."""
    names = [COLUMNS.get(name, name) for name in table.names]
    return SQL[form].format(
        table=table.name,
        time=table.time,
        names=", ".join(names),
        start=f"cast(created_at as integer) / {table.unit} * {table.unit}",
        named=", ".join(name if name in _NEVER_NULL else f"coalesce({name}, '')" for name in names),
        positions=", ".join(map(str, range(1, len(names) + 2))),
        requests=requests,
        complete=_complete(table),
        count="sum(requests)" if requests == GROUPED else "count(*)",
        unpriced="sum(unpriced)" if requests == GROUPED else "count(*) filter (where cost_nanos is null)",
        sequences=", first_seq, last_seq" if table is HOURS else "",
        sequences_of=f", min({'first_seq' if requests == GROUPED else 'seq'}), max(seq)"
        if table is HOURS
        else "",
        more_sequences=SQL["more_sequences"] if table is HOURS else "",
    )


def _complete(table: UsageTable) -> str:
    """A condition: the requests that the table has, of those in the sums."""
    if table is KEYS:
        return SQL["in_keys"]
    return SQL["in_filled_hours"] if table in FILLED_BY_ROWS else ""
