"""The journal: what the ledger promised before SQLite has it. Numbered files beside the database.

An event is in the journal once `write` has returned, so the death of the process does not lose it. Lines of a failed
write are removed again. Files are not synced one by one, as little as commits are (`synchronous=normal`). A file is
deleted only after the checkpoint that copied its events to the database and synced them.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from codellama_proxy.store.ledger import journal_lines

MAX_FILE_BYTES = 1 << 20
"""Size above which the next file begins."""
INFIX = ".journal."
"""Between the database's name and the number of a file."""

log = logging.getLogger(__name__)


def files(database: Path) -> list[Path]:
    """The files beside a database, in the order of their numbers. Raises `OSError`."""
    base = _base(database)
    found = [path for path in base.parent.iterdir() if path.name.startswith(base.name)]
    return sorted([path for path in found if path.name.removeprefix(base.name).isdecimal()], key=_number)


def _base(database: Path) -> Path:
    # Beside the target of a symbolic link, as SQLite's own log.
    real = Path(os.path.realpath(database))
    return real.with_name(real.name + INFIX)


def _number(path: Path) -> int:
    return int(path.suffix[1:])


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO | None]:
    """A file for reading; `None` for a link, a directory or a device, which no journal is. Raises `OSError`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
            raise
        yield None
        return
    if stat.S_ISREG(os.fstat(handle).st_mode):
        with os.fdopen(handle, "rb") as file:
            yield file
    else:
        os.close(handle)
        yield None


class Journal:
    """The files of one database that this process owns. For one thread."""

    def __init__(self, database: Path, journal_id: str, earlier: Sequence[Path] = ()) -> None:
        """`earlier`: files of an earlier process whose events are in the database. Raises `OSError`."""
        self._base = _base(database)
        self._header = journal_lines.header(journal_id)
        self._next = max([_number(path) for path in files(database)], default=0) + 1
        self._complete: deque[tuple[Path, int | None]] = deque((path, None) for path in earlier)
        """Files that are not written any more, oldest first, and the commit that covers them, once known."""
        self._path = self._base
        self._handle = -1
        self._size = 0
        self.failure: str | None = None
        """Why the last write failed."""
        self._remains = False
        """The last deletion of a file failed."""
        self._begin_file()

    def write(self, line: bytes) -> None:
        """Append a line. Raises `OSError`; then the journal has nothing of it."""
        try:
            self._append(line)
        except OSError as error:
            if self.failure is None:
                log.error("the ledger's journal %s* cannot be written: %s", self._base, error)
            self.failure = str(error)
            raise
        if self.failure is not None:
            log.warning("the ledger's journal %s* is written again", self._base)
            self.failure = None

    def _append(self, line: bytes) -> None:
        if self._handle < 0:
            self._begin_file()
        elif self._size > MAX_FILE_BYTES:
            with suppress(OSError):  # the present one can grow
                self._begin_file()
        written = os.write(self._handle, line)
        if written != len(line):
            self._cut()
            raise OSError(f"only {written} of {len(line)} bytes were written")
        self._size += written

    def _cut(self) -> None:
        """Remove a part of a line; if that fails, the file ends with it and the next line goes to another one."""
        try:
            os.ftruncate(self._handle, self._size)
        except OSError:
            self._end_file()

    def _begin_file(self) -> None:
        path, handle = self._create_file()
        try:
            if os.write(handle, self._header) != len(self._header):
                raise OSError("only a part of the first line was written")
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        self._end_file()
        self._path, self._handle, self._size = path, handle, len(self._header)
        self._next += 1

    def _create_file(self) -> tuple[Path, int]:
        while True:
            path = self._base.with_name(f"{self._base.name}{self._next:d}")
            with suppress(FileExistsError):  # of another program, or a link: not written to
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                return path, os.open(path, flags, 0o600)
            self._next += 1

    def _end_file(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._complete.append((self._path, None))

    @property
    def position(self) -> int:
        """The number of the first file that may get more lines."""
        return self._next if self._handle < 0 else self._next - 1

    def covered(self, position: int, commit: int) -> None:
        """Every event in files before `position` is in the database with this commit."""
        self._complete = deque(
            (path, commit if by is None and _number(path) < position else by) for path, by in self._complete
        )

    def delete(self, checkpointed: int) -> bool:
        """Delete files that a synced checkpoint covers; returns whether others only wait for the next checkpoint.

        `checkpointed`: the last commit in it.
        """
        while self._complete:
            path, commit = self._complete[0]
            if commit is None:
                return False
            if commit > checkpointed or not self._remove(path):
                return True
            self._complete.popleft()
        return False

    def close(self, *, delete: bool) -> None:
        """Close the file. `delete`: everything is in the database and synced, so no file is needed any more."""
        self._end_file()
        if delete:
            for path, _ in self._complete:
                self._remove(path)

    def _remove(self, path: Path) -> bool:
        """Delete a file whose events are in the database; `False` if that fails, which loses nothing."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            if not self._remains:
                log.warning("%s is not needed any more, and cannot be deleted: %s", path, error)
            self._remains = True
            return False
        self._remains = False
        return True
