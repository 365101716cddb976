"""Which process owns a database file, and whether the path still refers to that file.

The file itself is locked, by inode, so that a second path to it (a symbolic or hard link) or a removed lock file does
not admit a second server. On Linux `flock` is independent of the byte-range locks that SQLite takes, so other
processes continue to read and write. Closing a descriptor of the file releases this process's byte-range locks, so
the one opened here must be closed after every connection to the file.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from codellama_proxy.core.mounts import filesystem_of, is_network, read_mountinfo
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sqlite.connection import create_file, lock_file

MAX_TRIES = 5
"""Attempts to open a file whose path is replaced in the meantime."""

_Identity = tuple[int, int]


class Owned:
    """The database file that this process owns, and whether its path still refers to it."""

    def __init__(self, path: Path, identity: _Identity) -> None:
        self._path = path
        self._identity = identity
        # SQLite keeps its log beside the target of a symbolic link.
        real = Path(os.path.realpath(path))
        self._log = real.with_name(real.name + "-wal")
        self._log_identity: _Identity | None = None

    def lost(self) -> str | None:
        """Why writing must stop, as one sentence; `None` while the paths refer to the opened files.

        SQLite would continue to write to the deleted file, and the data would be lost. Makes two `stat` calls.
        """
        if _identity(self._path) != self._identity:
            return f"the database {self._path} was removed or replaced while it was in use"
        log = _identity(self._log)
        if self._log_identity is None:
            self._log_identity = log
        elif log != self._log_identity:
            return f"{self._log}, a part of the database, was removed or replaced while it was in use"
        return None


@contextmanager
def owned(path: Path) -> Iterator[Owned]:
    """Own the database; create it if it is missing. Raises `StoreError` if another server owns it.

    Close every connection to it before the context ends.
    """
    create_file(path)
    with lock_file(path):
        handle = _locked(path)
        try:
            status = os.fstat(handle)
            yield Owned(path, (status.st_dev, status.st_ino))
        finally:
            os.close(handle)


@contextmanager
def unused(path: Path) -> Iterator[None]:
    """Lock out servers while a database is replaced; it may be missing. Raises `StoreError` if one uses it."""
    with lock_file(path):
        handle = _locked(path) if path.exists() else None
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)


def in_use(path: Path) -> bool:
    """Whether a server owns the file. This process must have no connection to it."""
    if not _lockable(path):
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def reached_elsewhere(path: Path) -> None:
    """Raise `StoreError` for a hard link to a database that a server uses under its other name.

    SQLite keeps the log beside the path it opened: a second log for one file would corrupt it.
    """
    real = Path(os.path.realpath(path))
    try:
        linked = real.stat().st_nlink > 1
    except OSError:
        return
    if linked and not real.with_name(real.name + "-wal").exists() and in_use(real):
        raise StoreError(
            f"{path} is a hard link to a database that a server uses under another name: use that one"
        )


def _locked(path: Path) -> int:
    """A descriptor of the file at `path`, locked if the file system supports it."""
    for _ in range(MAX_TRIES):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot open the database {path}: {error.strerror}") from error
        try:
            if _lockable(path):
                _lock(handle, path)
            status = os.fstat(handle)
            if _identity(path) == (status.st_dev, status.st_ino):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise StoreError(f"cannot open the database {path}: it is replaced again and again")


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(f"another server owns the database {path}, perhaps under another name") from error
    except OSError:  # no such locks on this file system; the lock file beside it remains
        return


def _lockable(path: Path) -> bool:
    """Whether `flock` is independent of SQLite's locks: only on Linux, and not on network file systems."""
    return sys.platform == "linux" and not is_network(
        filesystem_of(PurePosixPath(os.path.realpath(path)).parent, read_mountinfo())
    )


def _identity(path: Path) -> _Identity | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
