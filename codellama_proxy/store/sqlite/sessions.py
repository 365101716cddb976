"""Sessions of commands: a separate connection, used synchronously; a server may be running."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.sql.admin_queries import AdminQueries
from codellama_proxy.store.sqlite import daily_totals, installation, scope_store
from codellama_proxy.store.sqlite.connection import connect, connect_to_read
from codellama_proxy.store.sqlite.migrations import is_current, migrate, shipped
from codellama_proxy.store.sqlite.ownership import reached_elsewhere


@contextmanager
def reading(path: Path) -> Iterator[Session]:
    """A session that only reads: the file is not created, and changed only if it has to be migrated."""
    with _as_store_error(path):
        with closing(connect_to_read(path)) as db:
            current = is_current(db)
            if current:
                yield Session(db)
        if not current:
            with _migrated(path, create=False) as db:
                yield Session(db)


@contextmanager
def writing(path: Path, *, create: bool) -> Iterator[Session]:
    """A session in one transaction, rolled back on any exception. It never checkpoints."""
    with _as_store_error(path), _migrated(path, create=create) as db:
        db.execute("begin immediate")
        try:
            yield Session(db)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:  # a full disk has already rolled back
                db.execute("rollback")
            raise


@contextmanager
def inspecting(path: Path) -> Iterator[Session | None]:
    """A session that only reads, without migrating; `None` if there is nothing at `path`."""
    if not os.path.lexists(path):
        yield None
        return
    with _as_store_error(path), closing(connect_to_read(path)) as db:
        is_current(db)  # raises if the file is damaged
        yield Session(db)


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    """Raises `StoreError` for every `sqlite3.Error`."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"cannot use the database {path}: {error}") from error


@contextmanager
def _migrated(path: Path, *, create: bool) -> Iterator[sqlite3.Connection]:
    if not create and not path.exists():
        raise StoreError(f"there is no database {path}")
    reached_elsewhere(path)
    with closing(connect(path, create=create)) as db:
        migrate(db, shipped())
        yield db


class Session(AdminQueries):
    """`interfaces.AdminSession` on one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._file = db

    def reconcile(self) -> list[Difference]:
        return daily_totals.reconcile(self._file)

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        return scope_store.states(self._file, scopes, now) if scopes else []

    def digest_key(self) -> bytes | None:
        return installation.known_digest_key(self._file)
