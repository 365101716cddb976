"""Opens, recognizes and locks SQLite files."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from codellama_proxy.store.errors import StoreError

BUSY_MS = 5000
MAX_WAL_BYTES = 64 * 1024 * 1024
"""Size of the write-ahead log above which a checkpoint truncates it."""

# SQLite's primary result codes for errors of the file or the disk, not of the statement.
_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PROTOCOL}
)
_BROKEN = frozenset(
    {
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
_UNAVAILABLE = _PASSING | _BROKEN

# Without an adapter `sqlite3` looks for one in three places for every `None` and `bool`, which costs more than to
# bind it.
_unchanged: Callable[[None], None] = dict[None, None]().get  # not a lambda: called without a Python frame
sqlite3.register_adapter(type(None), _unchanged)
sqlite3.register_adapter(bool, int)


def unavailable(error: BaseException) -> bool:
    """Whether the error is caused by the file or the disk, not by the statement."""
    return isinstance(error, sqlite3.Error) and _code(error) in _UNAVAILABLE


def passing(error: BaseException) -> bool:
    """Whether the connection remains usable after the error."""
    return isinstance(error, sqlite3.Error) and _code(error) in _PASSING


def _code(error: sqlite3.Error) -> int:
    return (
        getattr(error, "sqlite_errorcode", None) or 0
    ) & 0xFF  # the primary code, without the extended part


class Kind(NamedTuple):
    """A kind of SQLite file of the proxy."""

    application_id: int
    """SQLite's `application_id` in the file header."""
    before: str
    """A query that finds a row in files from versions that did not set the ID."""


LEDGER = Kind(0x636C7078, "select 1 from _migrations where name = '0001_keys'")
CACHE = Kind(0x636C7063, "select 1 from sqlite_schema where name = 'answers' and sql like '%deployment%'")


def connect(
    path: Path, *, create: bool = False, busy_ms: int = BUSY_MS, kind: Kind = LEDGER
) -> sqlite3.Connection:
    """A connection for writing. Without `create`, a missing file is an error, so that a lost ledger is noticed.

    Raises `StoreError` for a file of another program, before changing it, and `sqlite3.Error`.
    """
    if create:
        create_file(path)
    _must_be_regular(path)
    db = sqlite3.connect(
        _uri(path, "rw"), uri=True, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    try:
        db.execute(f"pragma busy_timeout={busy_ms:d}")
        if _recognised(db, path, kind) == 0 and create and _empty(db):
            mark(db, kind)
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=normal")
        db.execute("pragma foreign_keys=on")
        db.execute("pragma trusted_schema=off")
        db.execute("pragma wal_autocheckpoint=0")
        db.execute(f"pragma journal_size_limit={MAX_WAL_BYTES:d}")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path, kind: Kind = LEDGER) -> sqlite3.Connection:
    """A connection that only reads. Raises `StoreError` for a file that is missing or not ours; `sqlite3.Error`."""
    if not path.exists():
        raise StoreError(f"there is no database {path}")
    _must_be_regular(path)
    # Opened read-write so that closing removes a log that opening had to create.
    db = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None)
    try:
        db.execute("pragma query_only=on")
        db.execute(f"pragma busy_timeout={BUSY_MS:d}")
        db.execute("pragma trusted_schema=off")
        _recognised(db, path, kind)
    except BaseException:
        db.close()
        raise
    return db


def mark(db: sqlite3.Connection, kind: Kind = LEDGER) -> None:
    """Write the application id into the file."""
    if _application_id(db) != kind.application_id:
        db.execute(f"pragma application_id={kind.application_id:d}")


def _recognised(db: sqlite3.Connection, path: Path, kind: Kind) -> int:
    """The file's application ID: ours, or 0 if it is empty or of an old version. Raises `StoreError` otherwise."""
    found = _application_id(db)
    if found != kind.application_id and (found != 0 or not (_empty(db) or _ours_before(db, kind))):
        raise StoreError(f"{path} is not a database of this proxy; it was left as it is")
    return found


def _application_id(db: sqlite3.Connection) -> int:
    return int(db.execute("pragma application_id").fetchone()[0])


def _empty(db: sqlite3.Connection) -> bool:
    return db.execute("select 1 from sqlite_schema limit 1").fetchone() is None


def _ours_before(db: sqlite3.Connection, kind: Kind) -> bool:
    try:
        return db.execute(kind.before).fetchone() is not None
    except sqlite3.OperationalError as error:
        if _code(error) == sqlite3.SQLITE_ERROR:  # no such table, or no such column
            return False
        raise


def _must_be_regular(path: Path) -> None:
    """Raises `StoreError` for other files; opening a pipe, for example, would block."""
    try:
        mode = path.stat().st_mode
    except OSError:  # SQLite reports it
        return
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise StoreError(f"cannot open the database {path}: it is {what}")


def read_uri(path: Path) -> str:
    """The URI for a read-only connection."""
    return _uri(path, "ro")


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def create_file(path: Path) -> None:
    """Create an empty file unless the path exists. Raises `StoreError`.

    SQLite gives its log files the mode of the database, so the mode is set only here.
    An existing file is not opened: closing it would release the locks of this process's other connections.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not path.exists():
            raise StoreError(f"cannot open the database {path}: it cannot be made") from None
    except OSError as error:
        raise StoreError(f"cannot open the database {path}: {error.strerror}") from error


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a lock on `<db>.lock`: two servers on one database would each use their own counters in memory."""
    real = Path(os.path.realpath(path))
    lock = real.with_name(real.name + ".lock")
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open the lock {lock}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another server owns the database {path} (it holds {lock})") from error
        yield
    finally:
        os.close(handle)


def version_warning(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str | None:
    """A warning if this SQLite can lose log pages when two processes write; `None` if it is fixed."""
    if version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45):
        return None
    return (
        f"SQLite {'.'.join(map(str, version[:3]))} has the WAL-reset bug "
        "(fixed in 3.51.3, 3.50.7 and 3.44.6): only one server process may use the database"
    )
