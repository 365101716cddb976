"""Migrates a database on a server to this version's schema: each file in one transaction, with its record.

Processes of an older version may be serving, so a migration only adds to the schema. One that does not says so in a
line `-- breaks: VERSION`: it is refused while older processes serve, and older versions refuse the database afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from codellama_proxy import __version__
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.session import PostgresSession, as_store_error
from codellama_proxy.store.sql.migrations import Migration, missing, shipped_for

LOCK = 0x636C7078
"""Of the transaction-level advisory lock: session locks would outlive their owner behind a pooler."""
MAX_IDLE_SECONDS = 30
"""How long a migration may wait for its process before it is rolled back, so that another one can migrate."""
ALIVE_SECONDS = 60
"""A worker that beat this recently may be serving."""

_BREAKS = re.compile(r"^-- breaks: (\S+)$", re.MULTILINE)
_TAKE_LOCK = "select pg_advisory_xact_lock(%s)"
# Read from the catalog: a lookup by name may answer from before the lock was granted.
_EXISTS = """
select exists (select 1 from pg_tables where tablename = '_migrations' and schemaname = any(current_schemas(false)))
"""
_RECORDS = """
create table if not exists _migrations (
    name text not null primary key,
    sha256 text not null,
    applied_at double precision not null,
    breaks text
)
"""
_APPLIED = "select name, sha256, breaks from _migrations order by name"
_RECORD = """
insert into _migrations (name, sha256, applied_at, breaks)
values (%s, %s, extract(epoch from clock_timestamp())::float8, %s)
"""
_OLDER = """
select name from workers where version <> %s and beat_at > extract(epoch from clock_timestamp())::float8 - %s limit 1
"""
_OTHER_TABLES = """
select count(*) from pg_tables where schemaname = current_schema() and tablename in ('keys', 'requests', 'scopes')
"""


def shipped() -> tuple[Migration, ...]:
    """The migrations of this version, in order."""
    return shipped_for("postgres")


def migrate(
    db: PostgresSession, address: ServerAddress, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """Apply the missing migrations; returns their names. Raises `StoreError`."""
    known = shipped() if migrations is None else migrations
    done = []
    with as_store_error(address):
        while not is_current(db, known):
            with db.transaction(idle_seconds=MAX_IDLE_SECONDS):
                db.native(_TAKE_LOCK, (LOCK,))
                _recognize(db, address)
                db.native(_RECORDS)
                # Read again under the lock: another process may be starting.
                for migration in missing(known, _applied(db))[:1]:
                    _apply(db, migration)
                    done.append(migration.name)
    return done


def is_current(db: PostgresSession, migrations: Sequence[Migration] | None = None) -> bool:
    """Whether every migration is applied. Raises `StoreError` for a database that this version cannot use."""
    known = shipped() if migrations is None else migrations
    names = {migration.name for migration in known}
    if not db.native(_EXISTS).fetchone()[0]:
        return False
    for name, _, breaks in db.native(_APPLIED).fetchall():
        if breaks is not None and name not in names:
            raise StoreError(
                f"the database was migrated by a newer version ({breaks}; it has migration {name})"
            )
    return not missing(known, _applied(db))


def _applied(db: PostgresSession) -> list[tuple[str, str]]:
    return [(name, sha256) for name, sha256, _ in db.native(_APPLIED).fetchall()]


def _recognize(db: PostgresSession, address: ServerAddress) -> None:
    if not db.native(_EXISTS).fetchone()[0] and db.native(_OTHER_TABLES).fetchone()[0]:
        raise StoreError(f"the database {address} has tables of another program; it was left as it is")


def _apply(db: PostgresSession, migration: Migration) -> None:
    found = _BREAKS.search(migration.sql)
    breaks = found[1] if found else None
    if breaks is not None:
        older = db.native(_OLDER, (__version__, ALIVE_SECONDS)).fetchone()
        if older is not None:
            raise StoreError(
                f"migration {migration.name} has to wait until the processes of older versions are stopped ({older[0]})"
            )
    db.script(migration.sql)
    db.native(_RECORD, (migration.name, migration.sha256, breaks))
