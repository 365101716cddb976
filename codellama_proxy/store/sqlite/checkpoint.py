"""Checkpoints the write-ahead log on a separate thread, so that no commit waits for it.

SQLite before 3.51.3 can corrupt the file if a checkpoint runs over a log that was already copied completely while a
writer restarts that log. So a checkpoint starts only if there was a commit after the last one returned: the log was
then either restarted already or is not copied completely.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sqlite.connection import MAX_WAL_BYTES, connect

INTERVAL_SECONDS = 1.0
BUSY_MS = 1000

log = logging.getLogger(__name__)


class Checkpointer:
    """Copies the log to the database at regular intervals.

    `commits`: the number of commits so far; without new ones nothing is copied. `lost`: why the path no longer refers
    to the open file, if so; nothing is copied then.
    """

    def __init__(
        self,
        path: Path,
        commits: Callable[[], int],
        *,
        every: float = INTERVAL_SECONDS,
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._lost = lost
        self._commits = commits
        self._seen = commits()
        self.covered = 0
        """The number of commits that are copied and synced."""
        self._every = every
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._work, name="store-checkpoint")

    def start(self) -> None:
        """Start the thread; returns once it has its connection.

        Otherwise the writer's could be the last one: SQLite removes the log when that is closed, as if it were lost.
        """
        self._thread.start()
        self._opened.wait()

    def close(self) -> None:
        """Stop the thread after a last checkpoint, which empties the log."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        db = self._open()
        self._opened.set()
        while not self._stop.wait(self._every):
            if self._commits() != self._seen:
                db = self._checkpoint(db, "truncate" if self._size() > MAX_WAL_BYTES else "passive")
        db = self._checkpoint(db, "truncate")
        if db is not None:
            db.close()

    def _open(self) -> sqlite3.Connection | None:
        with suppress(sqlite3.Error, StoreError):  # to be tried again at the first checkpoint
            db = connect(self._path, busy_ms=BUSY_MS)
            # A connection keeps the log in place from its first statement on.
            db.execute("select 1 from sqlite_schema").fetchone()
            return db
        return None

    def _checkpoint(self, db: sqlite3.Connection | None, how: str) -> sqlite3.Connection | None:
        """Run one checkpoint; returns the connection to reuse, `None` after an error."""
        try:
            if self._lost() is not None:
                return db
            db = db or connect(self._path, busy_ms=BUSY_MS)
            commits = self._commits()
            busy, pages, copied = db.execute(f"pragma wal_checkpoint({how})").fetchone()
            if not busy and pages == copied:
                self.covered = commits
        except (sqlite3.Error, StoreError) as error:
            log.warning("the log of %s was not copied back: %s", self._path, error)
            if db is not None:
                db.close()
            return None
        else:
            return db
        finally:
            self._seen = self._commits()

    def _size(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0
