"""Sessions of commands: a separate connection, used synchronously; a server may be running."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from codellama_proxy.core.types import Key
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store import reports
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sql import audit, keys
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sqlite import daily_totals, installation
from codellama_proxy.store.sqlite.connection import connect, connect_to_read
from codellama_proxy.store.sqlite.ledger_entries import LedgerEntries
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


class Session:
    """`interfaces.AdminSession` on one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # --- keys --------------------------------------------------------------------------------------------------

    def key(self, key_id: str) -> Key:
        return keys.get(self._db, key_id)

    def keys(self, project: str | None) -> list[Key]:
        wanted = {"project": project, "size": -1, "skip": 0}
        return [keys.from_row(row) for row in self._db.execute(keys.SQL["page_of_cards"], wanted)]

    def keys_by_prefix(self, prefix: str) -> list[Key]:
        rows = self._db.execute(keys.SQL["cards_by_prefix"], {"prefix": prefix}).fetchall()
        return [keys.from_row(row) for row in rows]

    def create_key(self, change: KeyChange, actor: str, now: float) -> tuple[Key, str]:
        return audit.create(self._db, actor, change, now)

    def update_key(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key:
        return audit.update(self._db, actor, key_id, change, now)

    def block_key(self, key_id: str, blocked: bool, actor: str, now: float) -> Key:
        return audit.block(self._db, actor, key_id, blocked, now)

    def rotate_key(self, key_id: str, overlap: float, actor: str, now: float) -> tuple[Key, str]:
        return audit.rotate(self._db, actor, key_id, overlap, now)

    def delete_key(self, key_id: str, actor: str, now: float) -> Key:
        return audit.delete(self._db, actor, key_id, now)

    def key_changes(self, filters: AuditFilters, size: int) -> list[dict[str, Any]]:
        sql, values = audit.page_query(filters, 1, size)
        return [audit.entry(row) for row in self._db.execute(sql, values)]

    # --- the ledger --------------------------------------------------------------------------------------------

    def spend(self, group_by: Sequence[str], filters: reports.Filters) -> dict[str, Any]:
        sql, values = queries.spend_query(group_by, filters)
        return reports.summary(group_by, self._db.execute(sql, values).fetchall())

    def reconcile(self) -> list[Difference]:
        return daily_totals.reconcile(self._db)

    def inexact(self) -> list[tuple[str, int, int]]:
        return self._db.execute(queries.SQL["uncertain"]).fetchall()

    def position(self, last: int) -> int:
        (position,) = self._db.execute(queries.SQL["before_last"], (last,)).fetchone()
        return int(position)

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        sql, values = queries.after_query(position, size)
        return [(row[0], reports.log_row(row[1:])) for row in self._db.execute(sql, values).fetchall()]

    def log(self, request_id: str) -> dict[str, Any]:
        sql, values = queries.request_query(request_id)
        row = self._db.execute(sql, values).fetchone()
        return reports.log_row(row[: len(reports.LOG_COLUMNS)])

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        return LedgerEntries().standings(self._db, scopes, now) if scopes else []

    # --- the installation --------------------------------------------------------------------------------------

    def digest_key(self) -> bytes | None:
        return installation.known_digest_key(self._db)
