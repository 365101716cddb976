"""The write side of one SQLite file: a queue, its transactions, and checkpoints."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from codellama_proxy.store.sqlite.checkpoint import Checkpointer
from codellama_proxy.store.sqlite.group_commit import GroupCommit
from codellama_proxy.store.write_queue import DRAIN_SECONDS, WriteQueue


class Writer(WriteQueue[sqlite3.Connection]):
    """Functions run in one `begin immediate` transaction.

    If one fails after changing rows, the batch is rolled back and run again with one savepoint per function.
    """

    def __init__(self, path: str | Path, lost: Callable[[], str | None] = lambda: None) -> None:
        """`lost` returns why nothing may be written to the file any more, if so; called before each batch."""
        self.path = Path(path)
        self._group = GroupCommit(self.path, lost)
        self._checkpointer = Checkpointer(self.path, lambda: self.commits, lost=lost)
        super().__init__(self._group, str(self.path))

    def start(self) -> None:
        """Open the file, creating it if missing, and start the threads. Raises `StoreError`."""
        super().start()
        self._checkpointer.start()

    def close(self, drain: float = DRAIN_SECONDS) -> None:
        """Write everything queued, retrying failures for at most `drain` seconds, then close the file."""
        if self._thread is not None:
            super().close(drain)
            self._checkpointer.close()

    @property
    def commits(self) -> int:
        """Transactions committed so far."""
        return self._group.commits

    @property
    def checkpointed(self) -> int:
        """The number of transactions that are copied to the database file and synced."""
        return self._checkpointer.covered

    async def data_version(self) -> int:
        """A number that changes when, and only when, another process wrote to the file."""
        opened, version = await self._ask(self._data_version, inside=False)
        return (opened << 32) + version

    def _data_version(self, db: sqlite3.Connection) -> tuple[int, int]:
        # A new connection counts from the start again, so it must not be mistaken for the old one.
        return self._group.opened, int(db.execute("pragma data_version").fetchone()[0])
