"""Sums for reports, retention and partitions. Any worker does it, one at a time."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from functools import cache

from codellama_proxy.limits.windows import DAY
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
UNLIMITED_SECONDS = 86400.0
"""After which a balance that no configuration limits is removed."""
DAYS_AHEAD = 3
"""Partitions that exist for days to come."""
QUIET_SECONDS = 3600.0
"""After the end of a day: its last requests have ended."""
OTHER = "settled_other"
"""The partition of requests whose ids have an unexpected time."""

_PARTITION = re.compile(r"settled_(\d{8})")
log = logging.getLogger(__name__)


# --- sums ----------------------------------------------------------------------------------------------------


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


def fill_keys(db: PostgresSession) -> int:
    """Add a batch to the sums by key; returns 0 if these were complete, or another process is at it."""
    with db.transaction():
        return usage_totals.fill_keys(db) if _alone(db) else 0


def fill_hours(db: PostgresSession) -> int:
    """Add a batch to the sums by hour that an older version did not have; 0 as `fill_keys`."""
    with db.transaction():
        return usage_totals.fill_hours(db, ROLL_UP_ROWS) if _alone(db) else 0


# --- partitions ----------------------------------------------------------------------------------------------


def make_partitions(db: PostgresSession, now: float) -> int:
    """Make the partitions of today and the next days; returns their number. `now`: unix seconds."""
    made = 0
    existing = _partitions(db)
    for day in range(int(now // DAY), int(now // DAY) + DAYS_AHEAD + 1):
        if f"settled_{_name(day)}" in existing:
            continue
        values = {"first": first_id(day), "end": first_id(day + 1)}
        if db.native(SQL["occupied"], values).fetchone()[0]:
            _tell_occupied(_name(day))
            continue
        with db.transaction():
            if not _alone(db):
                return made
            db.native(SQL["impatient"])
            make_partition(db, day)
            made += 1
    return made


@cache
def _tell_occupied(day: str) -> None:
    """Once in a process: it stays so until retention."""
    log.warning("there is no partition for %s: requests of that day are in %s", day, OTHER)


def make_partition(db: PostgresSession, day: int) -> None:
    """Make the partitions of a day (since 1970), in the caller's transaction."""
    for table in ("settled", "request_contents"):
        db.script(
            f"create table if not exists {table}_{_name(day)} partition of {table} "
            f"for values from ('{first_id(day)}') to ('{first_id(day + 1)}')"
        )


def index_users(db: PostgresSession, now: float) -> int:
    """Add the index by user and sequence to a partition without it; returns 0 if there is none left to do now.

    Only where nothing is inserted meanwhile: the day has ended, or there are no rows. `now`: unix seconds.
    """
    missing = [name for (name,) in db.native(SQL["without_user_index"]).fetchall()]
    found = next((name for name in missing if _is_quiet(db, name, now)), None)
    if found is None and (missing or not db.native(SQL["has_older_index"]).fetchone()[0]):
        return 0
    with db.transaction():
        if not _alone(db):
            return 0
        db.native(SQL["impatient"])
        if found is None:
            db.script("drop index if exists settled_user")
        else:
            db.script(
                f'create index {found}_user_seq on {found} ("user", seq) where "user" is not null; '
                f"alter index settled_user_seq attach partition {found}_user_seq"
            )
        return 1


def _is_quiet(db: PostgresSession, name: str, now: float) -> bool:
    """Whether a partition gets no rows any more, or has none."""
    day = _PARTITION.fullmatch(name)
    if day is not None and _end_of(day[1]) + QUIET_SECONDS <= now:
        return True
    return not db.native(_of(name, "has_rows")).fetchone()[0]


def _name(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y%m%d")


def first_id(day: int) -> str:
    """Request ids of a day (since 1970) begin with this or what sorts after it."""
    return f"req_{day * DAY * 1000:011x}"


def _partitions(db: PostgresSession) -> list[str]:
    return [name for (name,) in db.native(SQL["partitions"]).fetchall()]


# --- scopes --------------------------------------------------------------------------------------------------


def drop_unlimited_scopes(db: PostgresSession) -> int:
    """Remove balances that nothing has limited for a day; returns their number. A new limit sums up its scope again."""
    return db.native(SQL["drop_unlimited"], (UNLIMITED_SECONDS,)).rowcount


# --- retention -----------------------------------------------------------------------------------------------


def fold(db: PostgresSession, before: float, rows: int = FOLD_ROWS) -> int:
    """Fold a partition of older rows, or up to `rows` older ones in none, into daily totals; returns their number.

    Whole days only: before the present one, and before a request that runs. `before`: unix seconds.
    """
    for name in _partitions(db):
        found = _PARTITION.fullmatch(name)
        if found is not None and _end_of(found[1]) <= before and (count := _fold_partition(db, name, before)):
            return count
    with db.transaction():
        if not _alone(db):
            return 0
        (first_held,) = db.native(SQL["first_held"]).fetchone()
        before = min(before, db.native(SQL["midnight"]).fetchone()[0])
        upto, count = 0, 0
        for seq, created_at in db.native(_of(OTHER, "oldest_rows"), (rows,)).fetchall():
            if seq >= first_held or created_at >= before:
                break
            upto, count = seq, count + 1
        if count:
            _move_to_totals(db, OTHER, upto)
            _add_to_scopes(db, OTHER, upto)
            for statement in ("drop_contents", "drop_rows"):
                db.native(_of(OTHER, statement), (upto,))
        return count


def _end_of(name: str) -> float:
    return datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).timestamp() + DAY


def _fold_partition(db: PostgresSession, name: str, before: float) -> int:
    """Fold and drop a partition; 0 if some of its rows are too new, or another process is at it."""
    with db.transaction():
        if not _alone(db):
            return 0
        count, newest, upto = db.native(_of(name, "whole")).fetchone()
        (first_held,) = db.native(SQL["first_held"]).fetchone()
        (summed,) = db.execute(usage_totals.SQL["upto"]).fetchone()
        midnight = db.native(SQL["midnight"]).fetchone()[0]
        if upto >= first_held or upto > summed or (newest or 0.0) >= min(before, midnight):
            return 0
        sums = _scope_sums(db, name, db.native(SQL["scopes"], (upto,)).fetchall(), upto)
        _move_to_totals(db, name, upto)  # which takes long: before requests have to wait
        db.native(SQL["impatient"])
        db.native(SQL["lock_tables"])
        _add_to_scopes(db, name, upto, sums)
        db.script(f"drop table {name}; drop table if exists {name.replace('settled', 'request_contents')}")
        return int(count) or 1


def _move_to_totals(db: PostgresSession, table: str, upto: int) -> None:
    usage_totals.take_away(db, upto, table)
    db.native(_of(table, "add_to_totals"), (upto,))


def _add_to_scopes(
    db: PostgresSession, table: str, upto: int, known: dict[tuple[str, int], int] | None = None
) -> None:
    """`known`: sums that were read before the locks, which rows so old do not change any more."""
    scopes = db.native(SQL["lock_scopes"], (upto,)).fetchall()
    sums = dict(known or {})
    sums |= _scope_sums(db, table, [one for one in scopes if tuple(one) not in sums], upto)
    for scope, first_seq in scopes:
        if nanos := sums[scope, first_seq]:
            db.native(SQL["add_to_scope"], {"nanos": nanos, "scope": scope})


def _scope_sums(
    db: PostgresSession, table: str, scopes: list[tuple[str, int]], upto: int
) -> dict[tuple[str, int], int]:
    found = {}
    for scope, first_seq in scopes:
        sql, values = scoped(_of(table, "scope_sum"), scope, first_seq=first_seq, upto=upto)
        found[scope, first_seq] = int(db.native(sql, values).fetchone()[0])
    return found


def _of(table: str, statement: str) -> str:
    """Only names of tables, which are ours, are inserted."""
    return SQL[statement].replace("{table}", table)


def _alone(db: PostgresSession) -> bool:
    return bool(db.native(SQL["alone"], (LOCK,)).fetchone()[0])
