"""What the ledger changed since the last transaction: collected in memory, then written at once."""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from codellama_proxy.store.ledger.journal_lines import Settled
from codellama_proxy.store.ledger.page import Held
from codellama_proxy.store.ledger.rows import ExtendedRow, HeldRow
from codellama_proxy.store.sqlite import outbox, scope_store
from codellama_proxy.store.sqlite.many_rows import execute_each, execute_many
from codellama_proxy.store.sqlite.scope_rows import SQL


class Running:
    """A request that is admitted and not settled."""

    __slots__ = ("estimate_nanos", "held", "row")

    def __init__(self, held: Held, row: HeldRow | None) -> None:
        self.held = held
        self.row = row
        """Its row, until a batch contains it."""
        self.estimate_nanos = None if row is None else row.estimate_nanos
        """Cost of its prompt; `None`: unknown."""


class Batch:
    """Rows to be written in one transaction. Writing it again changes nothing."""

    def __init__(self) -> None:
        self._admitted: dict[int, Running] = {}
        """By sequence."""
        self._finished: list[tuple[Any, ...]] = []
        self._held: list[tuple[Any, ...]] = []
        self._extended: dict[int, tuple[Any, ...]] = {}
        self._settled: list[tuple[Any, ...]] = []
        self._stored: list[Settled] = []
        """Those with content or a record."""
        self._scopes: list[tuple[Any, ...]] = []
        self.touched: set[tuple[str, ...]] = set()
        """The scopes of the requests."""
        self.events = 0
        self.bytes = 0
        """Of memory for content and records."""

    def admit(self, running: Running) -> None:
        held = running.held
        self._admitted[held.seq] = running
        self.touched.add(held.scopes)
        self.events += 1

    def extend(self, running: Running, row: ExtendedRow) -> None:
        """A further attempt. `running` has the new hold already."""
        seq, hold = running.held.seq, running.held.hold_nanos
        running.estimate_nanos = row.estimate_nanos
        if running.row is not None:
            running.row = running.row._replace(hold_nanos=hold, estimate_nanos=row.estimate_nanos)
        self._extended[seq] = (hold, *row[1:], seq)
        self.touched.add(running.held.scopes)
        self.events += 1

    def settle(self, running: Running, end: Settled) -> None:
        """The end of a request: one row if its admission is not written yet."""
        seq, row = running.held.seq, running.row
        request_id, ended, content, record = end
        if row is None:
            self._settled.append((seq, request_id, *ended))
        else:
            del self._admitted[seq]
            self._extended.pop(seq, None)
            self._finished.append((seq, *row[:12], *row[14:], *ended))
        if content is not None or record is not None:
            self._stored.append(end)
            self.bytes += sum([sys.getsizeof(text) for text in (content, record) if text is not None])
        self.touched.add(running.held.scopes)
        self.events += 1

    def seal(self, scopes: list[tuple[Any, ...]]) -> None:
        """Complete the batch. `scopes`: rows of `scope_store.row_of`."""
        for running in self._admitted.values():
            assert running.row is not None
            self._held.append((running.held.seq, *running.row, "held"))
            running.row = None
        self._scopes = scopes

    @property
    def is_empty(self) -> bool:
        return not (self.events or self._scopes)

    def write(self, db: sqlite3.Connection) -> int:
        """Write it; returns the number of tracking records that were dropped to make room for new ones."""
        new = [end for end in self._stored if not _is_settled(db, end.request_id)]
        execute_many(db, SQL["insert_finished"], self._finished)
        execute_many(db, SQL["insert_held"], self._held)
        execute_each(db, SQL["extend"], self._extended.values())
        execute_many(db, SQL["complete"], self._settled)
        scope_store.write(db, self._scopes)
        return sum([_keep(db, end) for end in new])


def _keep(db: sqlite3.Connection, end: Settled) -> int:
    """Store the content and the record of a settled request; returns the number of records dropped for it."""
    if end.content is not None:
        execute_each(db, SQL["keep_content"], [(end.request_id, end.content)])
    return 0 if end.record is None else outbox.put(db, "request", end.request_id, end.record.encode())


def _is_settled(db: sqlite3.Connection, request_id: str) -> bool:
    row = db.execute(SQL["status"], (request_id,)).fetchone()
    return row is not None and row[0] != "held"
