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
