"""Fills a PostgreSQL database as a month of use leaves it: 12 projects, 240 keys, 8 models, and the sums for reports.

python -m bench.postgres_rows postgresql://… [--rows 1000000]
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing

from bench.dashboard_rows import DAYS, KEYS_EACH, MODELS, PROJECTS, ROWS, USERS_EACH
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.location import ServerAddress, database_location
from codellama_proxy.store.postgres.housekeeping import make_partition, make_partitions
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.queries import load

SQL = load("postgres_rows", "bench")


def fill(address: ServerAddress, rows: int = ROWS, now: float | None = None) -> list[str]:
    """The secrets of the keys, one of each project. Half of the requests belong to sessions of 20 on average."""
    end = time.time() if now is None else now
    start = end - DAYS * DAY
    with closing(connect(address)) as db:
        migrate(db, address)
        secrets = _keys(db, end)
        make_partitions(db, end)
        db.native("select setseed(0.5)")
        before = 0
        for day in range(int(start // DAY), int(end // DAY) + 1):
            upto = min(int((((day + 1) * DAY) - start) / (end - start) * rows), rows)
            with db.transaction():
                make_partition(db, day)
                _requests(db, before + 1, upto + 1, rows, start, end - start)
                usage_totals.add(db, before, upto)
            before = upto
        db.native("select setval('requests_seq', %s)", (rows,))
        db.native("vacuum (analyze)")  # as autovacuum does after some minutes
    return secrets


def _keys(db: PostgresSession, now: float) -> list[str]:
    secrets = []
    db.script("create temp table callers (place bigint, project text, key_id text)")
    for project in range(PROJECTS):
        for number in range(KEYS_EACH):
            change = KeyChange({"key_alias": f"project-{project}", "name": f"key {number}"})
            key, secret = key_rows.create(db, change, now)
            place = project * KEYS_EACH + number
            db.native("insert into callers values (%s, %s, %s)", (place, key.project, key.key_id))
            if number == 0:
                secrets.append(secret)
    return secrets


def _requests(db: PostgresSession, first: int, end: int, total: int, start: float, seconds: float) -> None:
    values = {
        "first": first,
        "end": end,
        "total": total,
        "start": start,
        "seconds": seconds,
        "keys": PROJECTS * KEYS_EACH,
        "models": MODELS,
        "users": USERS_EACH,
    }
    db.native(SQL["day"], values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("database")
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    address = database_location(given.database)
    assert isinstance(address, ServerAddress), "the database must be a postgresql:// address"
    print("\n".join(fill(address, given.rows)))
