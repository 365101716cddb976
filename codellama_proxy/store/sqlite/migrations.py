"""Migrates a database to this version's schema: applies files in order, each in one transaction with its record.

The record contains the file's hash, so that an edited file is detected. A database of a newer version is refused.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql.migrations import Migration, pending, shipped_for
from codellama_proxy.store.sqlite.connection import connect, connect_to_read, mark

MAX_QUICK_CHECK_BYTES = 200 * 1024 * 1024
"""Maximum size of a file that is checked completely at every start."""

_RECORDS = """
create table if not exists _migrations (
    name text not null primary key,
    sha256 text not null,
    applied_at real not null
) strict
"""


def shipped() -> tuple[Migration, ...]:
    """The migrations of this version, in order."""
    return shipped_for("sqlite")


def prepare(path: str | Path, migrations: Sequence[Migration] | None = None) -> None:
    """Create the file if it is missing, check it and migrate it. Raises `StoreError`."""
    path = Path(path)
    try:
        db = connect(path, create=True)
        try:
            check(db, path)
            migrate(db, shipped() if migrations is None else migrations)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StoreError(_sentence(path, error)) from error


def recognize(path: Path) -> None:
    """Raises `StoreError` if the file is damaged or not a database of this proxy. Changes nothing."""
    try:
        with closing(connect_to_read(path)) as db:
            is_current(db)
    except sqlite3.Error as error:
        raise StoreError(_sentence(path, error)) from error


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raises `StoreError` if a file up to `MAX_QUICK_CHECK_BYTES` is damaged."""
    if path.stat().st_size > MAX_QUICK_CHECK_BYTES:
        return
    (result,) = db.execute("pragma quick_check(1)").fetchone()
    if result != "ok":
        raise StoreError(_damaged(path))


def migrate(db: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply the missing migrations. `db` must be in autocommit mode. Raises `StoreError`."""
    mark(db)
    db.execute(_RECORDS)
    for migration in pending(migrations, _applied(db)):
        db.execute("begin immediate")
        try:
            # Read again under the lock: another process may be starting on the same file.
            if migration in pending(migrations, _applied(db)):
                _apply(db, migration)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:  # a full disk has already rolled back
                db.execute("rollback")
            raise


def is_current(db: sqlite3.Connection) -> bool:
    """Whether every migration is applied. Raises `StoreError` for the database of a newer version."""
    try:
        return not pending(shipped(), _applied(db))
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return False
        raise


def _applied(db: sqlite3.Connection) -> list[tuple[str, str]]:
    return db.execute("select name, sha256 from _migrations order by name").fetchall()


def _apply(db: sqlite3.Connection, migration: Migration) -> None:
    for statement in statements(migration.sql):
        db.execute(statement)
    db.execute(
        "insert into _migrations (name, sha256, applied_at) values (?, ?, ?)",
        (migration.name, migration.sha256, time.time()),
    )


def statements(sql: str) -> Iterator[str]:
    """The single statements, because `executescript` would commit the surrounding transaction."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _sentence(path: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return _damaged(path)
    return f"cannot open the database {path}: {error}"


def _damaged(path: Path) -> str:
    return (
        f"the database {path} is damaged; it was left as it is: restore a backup, "
        "or move it away to begin with an empty one"
    )
