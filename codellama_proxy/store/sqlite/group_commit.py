"""Runs queued functions in one transaction on the write connection; knows no queue and no thread."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from codellama_proxy.store.errors import StoreError, StoreLostError, StoreUnavailableError
from codellama_proxy.store.queued_write import QueuedWrite
from codellama_proxy.store.sqlite.connection import connect, passing, unavailable

log = logging.getLogger(__name__)


class GroupCommit:
    """The write connection of one file. Only for the writer's thread, but for `open`."""

    def __init__(self, path: Path, lost: Callable[[], str | None]) -> None:
        """`lost` returns why nothing may be written to the file any more, if so; called before each batch."""
        self.commits = 0
        self.opened = 0
        """How often the connection was opened again."""
        self._path = path
        self._lost = lost
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, creating it if missing. Raises `StoreError`."""
        try:
            self._db = connect(self._path, create=True)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the database {self._path}: {error}") from error

    @property
    def due_in(self) -> None:
        """Nothing is written that was not queued."""
        return None

    def commit(self, items: Sequence[QueuedWrite], *, even_if_empty: bool = False) -> None:
        """Run the functions in one transaction, unless there is nothing to do.

        Raises `StoreError` and `sqlite3.Error`; then nothing of it is in the file, unless only the commit failed.
        """
        lost = self._lost()
        if lost is not None:
            raise StoreLostError(lost)
        if not items and not even_if_empty:
            return
        db = self.connected()
        # Savepoints copy every changed page, so only a batch that failed uses them.
        if not self._run_all(db, items, _run_plain):
            db.execute("rollback")
            self._run_all(db, items, _run_guarded)
        db.execute("commit")
        self.commits += 1

    def _run_all(
        self,
        db: sqlite3.Connection,
        items: Sequence[QueuedWrite],
        run: Callable[[sqlite3.Connection, QueuedWrite], bool],
    ) -> bool:
        """Run the batch in one transaction; `False` if it has to be rolled back and run with savepoints."""
        db.execute("begin immediate")
        for item in items:
            item.error = None
            if not run(db, item):
                return False
        return True

    def read(self, item: QueuedWrite) -> None:
        """Run a function outside of a transaction; its result or error is kept in the item."""
        try:
            item.result = item.fn(self.connected())
        except Exception as error:  # delivered to the caller
            item.error = StoreUnavailableError(str(error)) if unavailable(error) else error

    def write_deferred(self) -> None:
        """Nothing is deferred."""

    def reset(self, error: Exception) -> None:
        """Close an open transaction; also the connection, except after a lock or a full disk.

        A lost file may be moved back; until then only the open connection refers
        to it.
        """
        if self._db is None or isinstance(error, StoreLostError):
            return
        try:
            if self._db.in_transaction:
                self._db.execute("rollback")
        except sqlite3.Error:
            self.disconnect()
        if not passing(error):
            self.disconnect()

    def connected(self) -> sqlite3.Connection:
        """The connection, opened anew after it was closed. Raises `StoreError` and `sqlite3.Error`."""
        if self._db is None:
            self._db = connect(self._path)
            self.opened += 1
        return self._db

    def disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _run_plain(db: sqlite3.Connection, item: QueuedWrite) -> bool:
    """Run a function; returns `False` if it failed after changing rows."""
    before = db.total_changes
    return _run(db, item) or db.total_changes == before


def _run_guarded(db: sqlite3.Connection, item: QueuedWrite) -> bool:
    """Run a function in its own savepoint, so that its failure does not undo the work of others."""
    db.execute("savepoint item")
    if not _run(db, item):
        db.execute("rollback to item")
    db.execute("release item")
    return True


def _run(db: sqlite3.Connection, item: QueuedWrite) -> bool:
    """Run a function; returns whether it succeeded. Raises errors of the store; others are stored in the item."""
    try:
        item.result = item.fn(db)
    except Exception as error:
        if unavailable(error) or not db.in_transaction:
            raise
        item.error = error
    return item.error is None
