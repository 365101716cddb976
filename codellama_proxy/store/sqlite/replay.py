"""Writes what the journal has and the database has not, after the process that wrote it died.

A database names the journal that continues it, and a new one at every start, so files of another database or of a
copy are left as they are. It also names those that a start replayed, whose files are only to be deleted. Every event is
applied at most once: an admission if its sequence is newer than all rows, because rows are written in that order, and
anything else only while its row is held.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from codellama_proxy.limits.rates import scope_ids
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.ledger import journal_lines
from codellama_proxy.store.ledger.journal_lines import Admitted, Event, Extended, Settled
from codellama_proxy.store.ledger.page import Held
from codellama_proxy.store.ledger.rows import is_storable
from codellama_proxy.store.ledger.scope_balance import ScopeBalance
from codellama_proxy.store.sqlite import scope_store
from codellama_proxy.store.sqlite.connection import connect_to_read
from codellama_proxy.store.sqlite.journal import files, opened
from codellama_proxy.store.sqlite.ledger_batch import Batch, Running
from codellama_proxy.store.sqlite.scope_rows import SQL

MAX_HEADER_BYTES = 1000

log = logging.getLogger(__name__)


class _Found(NamedTuple):
    """A file with the name of a journal."""

    path: Path
    journal_id: str | None
    """`None` if it is no journal of this database, `""` if it has not even a header."""
    data: bytes
    """Its lines, if some may not be in the database."""


def begin(db: sqlite3.Connection, paths: Iterable[Path], journal_id: str) -> tuple[list[Path], int]:
    """Replay journal files and name the next journal; returns the files not needed any more and the newest sequence."""
    replayed = replay(db, paths)
    db.execute(SQL["journal"], (journal_id.encode(), " ".join({*replayed.values()}).encode()))
    (seq,) = db.execute(SQL["last_seq"]).fetchone()
    return [*replayed], seq


def replay(db: sqlite3.Connection, paths: Iterable[Path]) -> dict[Path, str]:
    """Apply the events of journal files, within the present transaction; returns the journals of this database's files.

    Raises `StoreError` for a file that cannot be read, because it may have what was promised.
    """
    own = {}
    for path, journal_id, data in _found(db, paths):
        if journal_id is None:
            log.warning("%s does not continue this database and is ignored; it can be removed", path)
            continue
        own[path] = journal_id
        apply(db, journal_lines.events(data))
        damaged = journal_lines.damaged(data)
        if damaged:
            log.warning("%s has %d incomplete or damaged lines, which are left out", path, damaged)
    return own


def check(database: Path) -> None:
    """Raise `StoreError` if `replay` could not read the journal. Call before a migration, which has no way back."""
    try:
        paths = files(database)
    except OSError as error:
        raise StoreError(f"cannot look for the journal of {database}: {error.strerror}") from error
    if not paths or not database.stat().st_size:
        return
    with (
        suppress(sqlite3.Error),
        closing(connect_to_read(database)) as db,
    ):  # the migration tells what is wrong
        for _ in _found(db, paths):
            pass


def _found(db: sqlite3.Connection, paths: Iterable[Path]) -> Iterator[_Found]:
    """What the files are to this database. Raises `StoreError`."""
    exists = db.execute("select 1 from sqlite_schema where name = 'installation'").fetchone()
    named = dict(db.execute(SQL["journals"])) if exists else {}
    present, replayed = (named.get(name, b"").decode() for name in ("journal", "replayed_journals"))
    for path in paths:
        try:
            with opened(path) as file:
                yield _look(path, file, present, replayed.split())
        except OSError as error:
            raise StoreError(f"cannot read the journal {path}: {error.strerror}") from error


def _look(path: Path, file: BinaryIO | None, present: str, replayed: Sequence[str]) -> _Found:
    first = b"?" if file is None else file.readline(MAX_HEADER_BYTES)
    if file is None or not first:  # killed before it wrote the header
        return _Found(path, None if first else "", b"")
    header = journal_lines.header_of(first)
    if header is not None and header.journal_id in replayed:  # killed before it deleted the file
        return _Found(path, header.journal_id, b"")
    if header is None or header.journal_id != present:
        return _Found(path, None, b"")
    if header.version != journal_lines.FORMAT:
        raise StoreError(
            f"{path} was left by another version of the proxy, which was killed: start and stop that version first"
        )
    return _Found(path, header.journal_id, file.read())


def apply(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Apply events in order, each at most once, as the process that wrote them would have written them."""
    replayed = _Replay(db)
    for event in events:
        replayed.add(event)
    replayed.write()


class _Replay:
    """Events that are not in the database, as one batch."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        (self._last,) = db.execute(SQL["last_seq"]).fetchone()
        self._balances: dict[str, ScopeBalance] = {}
        self._running: dict[str, Running] = {}
        """Held requests of these events, by ID."""
        self._settled: set[str] = set()
        self._batch = Batch()

    def add(self, event: Event) -> None:
        if not is_storable(event.row):  # such a row is not written, so its balances must not change
            name = event.row.request_id if isinstance(event, Admitted) else event.request_id
            log.error("a row could not be written to the ledger: %s", name)
        elif isinstance(event, Admitted):
            if event.seq > self._last:
                self._admit(event)
        elif (running := self._held(event.request_id)) is not None:
            if isinstance(event, Extended):
                self._extend(running, event)
            else:
                self._settle(running, event)

    def write(self) -> None:
        changed = {scope: balance for scope, balance in self._balances.items() if balance.changed}
        self._batch.seal([scope_store.row_of(scope, balance) for scope, balance in changed.items()])
        self._batch.write(self._db)

    def _admit(self, event: Admitted) -> None:
        row = event.row
        self._last = event.seq
        ids = scope_ids(row.project, row.key_id, row.user)
        running = Running(Held(event.seq, ids, row.hold_nanos, row.estimate_tokens), row)
        self._running[row.request_id] = running
        for balance in self._balances_of(running):
            balance.admitted(row.hold_nanos)
        self._batch.admit(running)

    def _extend(self, running: Running, event: Extended) -> None:
        held = running.held
        for balance in self._balances_of(running):
            balance.extended(held.seq, event.hold_nanos - held.hold_nanos)
        running.held = held._replace(hold_nanos=event.hold_nanos)
        self._batch.extend(running, event.row)

    def _settle(self, running: Running, event: Settled) -> None:
        del self._running[event.request_id]
        self._settled.add(event.request_id)
        for balance in self._balances_of(running):
            balance.settled(running.held.seq, running.held.hold_nanos, event.row.cost_nanos or 0, 0)
        self._batch.settle(running, event)

    def _held(self, request_id: str) -> Running | None:
        """A request that is held after the events so far."""
        running = self._running.get(request_id)
        if running is None and request_id not in self._settled:
            row = self._db.execute(SQL["held"], (request_id,)).fetchone()
            if row is not None:
                seq, project, key_id, user, hold, tokens = row
                running = Running(Held(seq, scope_ids(project, key_id, user), hold, tokens), None)
                self._running[request_id] = running
        return running

    def _balances_of(self, running: Running) -> Iterator[ScopeBalance]:
        """The balances of a request's scopes."""
        for scope in running.held.scopes:
            if scope not in self._balances:
                self._balances.update(scope_store.read(self._db, [scope]))
            yield self._balances[scope]
