"""Writes what the journal has and the database has not, after the process that wrote it died.

A database names the journal that continues it, and a new one at every start, so files of another database, of a copy
or of an earlier start are left as they are. Every event is applied at most once: an admission if its sequence is newer
than all rows, because rows are written in that order, and anything else only while its row is held.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from codellama_proxy.limits import rates as limits
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.ledger import journal_lines
from codellama_proxy.store.ledger.journal_lines import Admitted, Event, Extended, Settled
from codellama_proxy.store.sqlite.connection import connect_to_read
from codellama_proxy.store.sqlite.journal import files, opened
from codellama_proxy.store.sqlite.ledger_batch import keep
from codellama_proxy.store.sqlite.scope_rows import SQL

MAX_HEADER_BYTES = 1000

log = logging.getLogger(__name__)


def begin(db: sqlite3.Connection, paths: Iterable[Path], journal_id: str) -> tuple[list[Path], int]:
    """Replay journal files and name the next journal; returns the replayed files and the newest sequence."""
    replayed = replay(db, paths)
    db.execute(SQL["journal"], (journal_id.encode(),))
    (seq,) = db.execute(SQL["last_seq"]).fetchone()
    return replayed, seq


def replay(db: sqlite3.Connection, paths: Iterable[Path]) -> list[Path]:
    """Apply the events of journal files, within the present transaction; returns the files of this database.

    Raises `StoreError` for a file that cannot be read, because it may have what was promised.
    """
    own = []
    for path, data in _continuing(db, paths):
        if data is None:
            log.warning("%s does not continue this database and is ignored; it can be removed", path)
            continue
        own.append(path)
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
        for _ in _continuing(db, paths):
            pass


def _continuing(db: sqlite3.Connection, paths: Iterable[Path]) -> Iterator[tuple[Path, bytes | None]]:
    """Each file with its lines, or with `None` if it does not continue this database. Raises `StoreError`."""
    named = db.execute("select 1 from sqlite_schema where name = 'installation'").fetchone()
    row = db.execute(SQL["journal_id"]).fetchone() if named else None
    for path in paths:
        try:
            with opened(path) as file:
                yield path, None if file is None or row is None else _lines(path, file, row[0].decode())
        except OSError as error:
            raise StoreError(f"cannot read the journal {path}: {error.strerror}") from error


def _lines(path: Path, file: BinaryIO, journal_id: str) -> bytes | None:
    header = journal_lines.header_of(file.readline(MAX_HEADER_BYTES))
    if header is None or header.journal_id != journal_id:
        return None
    if header.version != journal_lines.FORMAT:
        raise StoreError(
            f"{path} was left by another version of the proxy, which was killed: start and stop that version first"
        )
    return file.read()


def apply(db: sqlite3.Connection, events: Iterable[Event]) -> None:
    """Apply events in order, each at most once."""
    (last,) = db.execute(SQL["last_seq"]).fetchone()
    for event in events:
        if isinstance(event, Admitted):
            if event.seq > last:
                try:
                    _admit(db, event)
                except (OverflowError, UnicodeEncodeError):  # no value for SQLite: the batch left it out, too
                    log.exception("a row could not be written to the ledger: %s", event.row.request_id)
            continue
        held = db.execute(SQL["held"], (event.request_id,)).fetchone()
        if held is None:
            continue
        if isinstance(event, Extended):
            _extend(db, event, *held)
        else:
            _settle(db, event, *held)


def _admit(db: sqlite3.Connection, event: Admitted) -> None:
    row = event.row
    statement = SQL["insert_held"].replace("{rows}", f"({', '.join('?' * (len(row) + 2))})")
    if db.execute(statement, (event.seq, *row, "held")).rowcount == 1:
        _hold(db, event.seq, row.hold_nanos, row.project, row.key_id, row.user)


def _extend(
    db: sqlite3.Connection,
    event: Extended,
    seq: int,
    project: str,
    key_id: str | None,
    user: str | None,
    hold: int,
    _: int,
) -> None:
    db.execute(SQL["extend"], (event.hold_nanos, *event.row[1:], seq))
    _hold(db, seq, event.hold_nanos - hold, project, key_id, user)


def _settle(
    db: sqlite3.Connection,
    event: Settled,
    seq: int,
    project: str,
    key_id: str | None,
    user: str | None,
    hold: int,
    _: int,
) -> None:
    db.execute(SQL["complete"], (*event.row, seq, event.request_id))
    booked = {"seq": seq, "hold": hold, "cost": event.row.cost_nanos or 0}
    db.execute(SQL["book"], booked | _scopes(project, key_id, user))
    keep(db, event)


def _hold(
    db: sqlite3.Connection, seq: int, nanos: int, project: str, key_id: str | None, user: str | None
) -> None:
    db.execute(SQL["hold_more"], {"seq": seq, "nanos": nanos} | _scopes(project, key_id, user))


def _scopes(project: str, key_id: str | None, user: str | None) -> dict[str, str | None]:
    ids = limits.scope_ids(project, key_id, user)
    return dict(zip("abcd", (*ids, None, None), strict=False))
