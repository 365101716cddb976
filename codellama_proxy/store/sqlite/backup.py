"""Backs up and restores the whole database; never overwrites an existing file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sqlite import journal
from codellama_proxy.store.sqlite import migrations as migrate
from codellama_proxy.store.sqlite.connection import connect, connect_to_read
from codellama_proxy.store.sqlite.ownership import in_use, unused
from codellama_proxy.store.sqlite.replay import replay

WRITTEN_AFTER_SECONDS = 0.2
"""After which a server that is not overloaded has written an event to the database."""
LOGS = ("-wal", "-shm")
"""Suffixes of SQLite's files beside a database. Beside a different database they would corrupt it."""


def backup(source: Path, target: Path) -> int:
    """Write a checked copy of `source` to `target`; returns its size in bytes. Servers and writers may run.

    It has everything that was promised before the call: what is only in the journal is written first.
    """
    _must_exist(source)
    _write_journal(source)
    with _as_store_error(target), _reserved(target), _unfinished(target) as copy:
        with closing(connect_to_read(source)) as db:
            db.execute("pragma query_only=off")  # only the copy is written
            db.execute("vacuum into ?", (str(copy),))
        check(copy)
        _sync(copy)
        copy.replace(target)
        _sync(target.parent)
        return target.stat().st_size


def _write_journal(database: Path) -> None:
    """Have events that are only in the journal written: by the server, or here if it has died."""
    if not journal.files(database):
        return
    if in_use(database):
        time.sleep(WRITTEN_AFTER_SECONDS)
        return
    with _as_store_error(database), unused(database), closing(connect(database)) as db:
        db.execute("begin immediate")
        replay(db, journal.files(database))  # the files stay: the next start applies nothing twice
        db.execute("commit")


def restore(source: Path, database: Path, moment: str) -> Path | None:
    """Replace `database`, which no server may use, with a copy; returns the path of the previous one, if any."""
    check(source)
    database = Path(os.path.realpath(database))  # keeps a symbolic link
    with unused(database):
        with _as_store_error(database), _unfinished(database) as copy:
            shutil.copyfile(source, copy)
            _sync(copy)
            aside = _moved_away(database, f".before-restore-{moment}")
            copy.replace(database)
            _sync(database.parent)
        migrate.prepare(database)
    return aside


def check(path: Path) -> None:
    """Raise `StoreError` unless this is an intact database of a proxy."""
    _must_exist(path)
    try:
        with closing(connect_to_read(path)) as db:
            (result,) = db.execute("pragma integrity_check(1)").fetchone()
            (ours,) = db.execute("select count(*) from sqlite_schema where name = '_migrations'").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path} is not a good copy: {error}") from error
    if result != "ok":
        raise StoreError(f"{path} is damaged: {result}")
    if not ours:
        raise StoreError(f"{path} is not a database of this proxy")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"there is no file {path}")


@contextmanager
def _as_store_error(target: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise StoreError(f"{target} is there already, and nothing is ever overwritten") from None
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StoreError(f"cannot write {target}: {error}") from error


@contextmanager
def _reserved(path: Path) -> Iterator[None]:
    """An empty file that reserves the name while the copy is written beside it."""
    _create(path)
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A private temporary file in the same directory, removed unless it was renamed."""
    path = target.with_name(f".{target.name}.{os.getpid()}")
    _create(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _moved_away(database: Path, ending: str) -> Path | None:
    if not database.exists():
        return None
    aside = database.with_name(database.name + ending)
    # A journal would be left as it is beside a different database, but belongs to this one.
    journals = [path.name.removeprefix(database.name) for path in journal.files(database)]
    for end in ("", *LOGS, *journals):
        part = database.with_name(database.name + end)
        if part.exists():
            part.rename(aside.with_name(aside.name + end))
    return aside


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
