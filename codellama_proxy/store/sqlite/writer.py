"""One thread owns the write connection; a write is a function that runs inside a group commit.

The thread takes all queued functions, runs them in one `begin immediate` transaction and resolves their futures
after the commit. So a function is atomic, sees the effect of every function queued before it, is not interrupted
by the cancellation of its caller, and is cheap under load. If a function fails after changing rows, the batch is
rolled back and run again with one savepoint per function: a function may run twice, but commits once.

Awaited writes wake the thread. Fire-and-forget writes (`post`) join the next batch, or wake the thread after
`SHARE_COMMIT_SECONDS`: a wake-up and a commit cost more than most functions.

A batch that cannot begin or commit fails as a whole with `StoreUnavailableError`. Functions queued with
`keep=True` then stay first in the queue and are retried until they commit. A commit that reported an I/O error
may have succeeded, so such functions must be idempotent.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from codellama_proxy.store.errors import StoreError, StoreLostError, StoreUnavailableError
from codellama_proxy.store.sqlite.checkpoint import Checkpointer
from codellama_proxy.store.sqlite.connection import connect, passing, unavailable

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], T]

MAX_BATCH = 256
SHARE_COMMIT_SECONDS = 0.005
"""How long a fire-and-forget write may wait for other writes to share its commit."""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
DRAIN_SECONDS = 10.0
"""How long `close` retries writes queued with `keep`."""

log = logging.getLogger(__name__)


class Page(Protocol):
    """In-memory state that the functions share from one transaction to the next."""

    @property
    def due_in(self) -> float | None:
        """Seconds until deferred changes have to be written; `None` if there are none."""

    def flush(self, db: sqlite3.Connection) -> None:
        """Write changes to the database; called before a commit or a savepoint."""

    def flush_all(self, db: sqlite3.Connection) -> None:
        """`flush`, with the deferred changes."""

    def forget(self) -> None:
        """Discard everything; called after a rollback or a failed commit."""


class _Item:
    """One queued function and its future. `inside`: whether it runs in the transaction."""

    __slots__ = ("error", "fn", "future", "inside", "keep", "loop", "result")

    def __init__(
        self,
        fn: Write[Any],
        future: asyncio.Future[Any] | concurrent.futures.Future[Any] | None,
        loop: asyncio.AbstractEventLoop | None,
        keep: bool,
        inside: bool,
    ) -> None:
        self.fn = fn
        self.future = future
        self.loop = loop
        self.keep = keep
        self.inside = inside
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """The write side of one database file. `start` and `close` block; everything else does not."""

    def __init__(self, path: str | Path, lost: Callable[[], str | None] = lambda: None) -> None:
        """`lost` returns why nothing may be written to the file any more, if so; called before each batch."""
        self.path = Path(path)
        self._lost = lost
        self.commits = 0
        self.page: Page | None = None
        self._queue: collections.deque[_Item] = collections.deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._awake = False
        """The thread is awake or being woken, and will read the queue once more."""
        self._due = 0.0
        """Monotonic time of the scheduled wake-up for fire-and-forget writes."""
        self._kept: list[_Item] = []
        self._running = 0
        self._failure: str | None = None
        self._delay = FIRST_RETRY_SECONDS / 2
        self._closing = False
        self._give_up_at = float("inf")
        self._db: sqlite3.Connection | None = None
        self._opened = 0
        self._thread: threading.Thread | None = None
        self._checkpointer = Checkpointer(self.path, lambda: self.commits, lost=lost)

    # --- for any thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the file, creating it if missing, and start the threads. Raises `StoreError`."""
        try:
            self._db = connect(self.path, create=True)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the database {self.path}: {error}") from error
        self._thread = threading.Thread(target=self._work, name="store-writer")
        self._thread.start()
        self._checkpointer.start()

    def close(self, drain: float = DRAIN_SECONDS) -> None:
        """Write everything queued, retrying failures for at most `drain` seconds, then close the file."""
        if self._thread is None:
            return
        self._closing = True
        self._give_up_at = time.monotonic() + drain
        self._wake()
        self._thread.join()
        self._thread = None
        self._checkpointer.close()
        _fail(self._drain(), "the store is closed")

    @property
    def healthy(self) -> bool:
        """Whether the last batch was committed."""
        return self._failure is None and self._thread is not None and self._thread.is_alive()

    @property
    def failure(self) -> str | None:
        """Why the last batch was not committed."""
        return self._failure

    @property
    def pending(self) -> int:
        """Number of functions that are not committed yet."""
        return len(self._queue) + len(self._kept) + self._running

    async def run(self, fn: Write[T]) -> T:
        """The result of `fn`, once it is committed. Cancelling the caller does not stop the function."""
        return await self._ask(fn, inside=True)

    def submit(self, fn: Write[T], *, keep: bool = False) -> concurrent.futures.Future[T]:
        """Queue `fn` from any thread without waiting; with `keep` it is retried until it is committed."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()  # a queued function cannot be cancelled
        self._put(_Item(fn, future, None, keep, inside=True))
        return future

    def post(self, fn: Write[Any]) -> None:
        """Like `submit` with `keep`, but without a result, which is cheaper."""
        self._queue_up(_Item(fn, None, None, keep=True, inside=True))
        now = time.monotonic()
        if self._awake or now < self._due:
            return
        try:
            asyncio.get_running_loop().call_later(SHARE_COMMIT_SECONDS, self._wake_if_queued)
            self._due = now + SHARE_COMMIT_SECONDS
        except RuntimeError:  # no event loop in this thread
            self._wake()

    def _wake_if_queued(self) -> None:
        # Event loops count in milliseconds, so this may be early: the next write schedules another.
        self._due = 0.0
        if self._queue:
            self._wake()

    async def barrier(self) -> None:
        """Return once everything queued before is committed; `StoreUnavailableError` if it could not be."""
        await self._ask(_nothing, inside=False)

    async def data_version(self) -> int:
        """A number that changes when, and only when, another process wrote to the file."""
        opened, version = await self._ask(self._data_version, inside=False)
        return (opened << 32) + version

    def _data_version(self, db: sqlite3.Connection) -> tuple[int, int]:
        # A new connection counts from the start again, so it must not be mistaken for the old one.
        return self._opened, int(db.execute("pragma data_version").fetchone()[0])

    async def _ask(self, fn: Write[T], *, inside: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Item(fn, future, loop, keep=False, inside=inside))
        return await future

    def _put(self, item: _Item) -> None:
        self._queue_up(item)
        self._wake()

    def _queue_up(self, item: _Item) -> None:
        if self._closing or self._thread is None:
            raise StoreUnavailableError("the store is closed")
        self._queue.append(item)

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._wakeups.put(None)

    # --- on the writer's thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        while not (self._closing and not self._queue and self._finished()):
            batch = self._take()
            self._running = len(batch)
            try:
                self._commit([item for item in batch if item.inside])
            except Exception as error:  # a dead thread would leave every future pending
                self._failed(batch, error)
            else:
                self._committed(batch)
            self._running = 0
        _fail(self._kept, "the store is closed and could not write any more")
        self._kept = []
        self._write_deferred()
        self._disconnect()

    def _write_deferred(self) -> None:
        """Before the file is closed; after a failure the deferred changes are given up."""
        if self.page is None or self.page.due_in is None or self._failure is not None:
            return
        try:
            db = self._connected()
            db.execute("begin immediate")
            self.page.flush_all(db)
            db.execute("commit")
        except (sqlite3.Error, StoreError) as error:
            log.warning("the last second of rates was not written to %s: %s", self.path, error)

    def _finished(self) -> bool:
        return not self._kept or time.monotonic() >= self._give_up_at

    def _take(self) -> list[_Item]:
        """The next batch: kept functions, then queued ones. Waits for work, or for the next retry."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=self._patience())
        self._awake = False  # later writes wake the thread again
        batch = self._kept + self._drain(MAX_BATCH)
        self._kept = []
        if self._queue:
            self._wake()
        return batch

    def _patience(self) -> float | None:
        """Seconds to wait for new work; `None`: without end."""
        if self._failure is not None:
            return self._delay
        due_in = None if self.page is None else self.page.due_in
        return None if due_in is None else max(due_in, 0.0)

    def _deferred_due(self) -> bool:
        return self._patience() == 0.0

    def _drain(self, most: int | None = None) -> list[_Item]:
        queued = self._queue
        count = len(queued) if most is None else min(len(queued), most)
        return [queued.popleft() for _ in range(count)]

    def _commit(self, items: Sequence[_Item]) -> None:
        lost = self._lost()
        if lost is not None:
            raise StoreLostError(lost)
        if not items and self._failure is None and not self._deferred_due():
            return
        db = self._connected()
        # Savepoints copy every changed page, so only a batch that failed uses them.
        if not self._run_all(db, items, _run_plain):
            db.execute("rollback")
            self._forget()
            self._run_all(db, items, self._run_guarded)
        db.execute("commit")
        self.commits += 1

    def _run_all(
        self, db: sqlite3.Connection, items: Sequence[_Item], run: Callable[[sqlite3.Connection, _Item], bool]
    ) -> bool:
        """Run the batch in one transaction; `False` if it has to be rolled back and run with savepoints."""
        db.execute("begin immediate")
        for item in items:
            item.error = None
            if not run(db, item):
                return False
        if self.page is not None:
            self.page.flush(db)
        return True

    def _run_guarded(self, db: sqlite3.Connection, item: _Item) -> bool:
        """Run a function in its own savepoint, so that its failure does not undo the work of others."""
        if self.page is not None:
            self.page.flush(db)
        db.execute("savepoint item")
        if not _run(db, item):
            db.execute("rollback to item")
            self._forget()
        db.execute("release item")
        return True

    def _committed(self, batch: Sequence[_Item]) -> None:
        if self._failure is not None:
            log.warning("the store writes again: %s", self.path)
        self._failure = None
        self._delay = FIRST_RETRY_SECONDS / 2
        for item in batch:
            if not item.inside:
                self._read(item)
            elif item.keep and item.error is not None:
                log.error("a write that must not be lost failed", exc_info=item.error)
        _deliver(batch)

    def _read(self, item: _Item) -> None:
        try:
            item.result = item.fn(self._connected())
        except Exception as error:  # delivered to the caller
            item.error = StoreUnavailableError(str(error)) if unavailable(error) else error

    def _failed(self, batch: Sequence[_Item], error: Exception) -> None:
        """The batch was rolled back: fail its futures and those still in the queue, except for `keep`."""
        self._reset(error)
        self._forget()
        if self._failure is None:
            log.error("the store cannot write to %s: %s", self.path, error)
        self._failure = str(error)
        self._delay = min(self._delay * 2, MAX_RETRY_SECONDS)
        everything = [*batch, *self._drain()]
        self._kept = [item for item in everything if item.keep]
        for item in self._kept:
            item.error = None
        _fail((item for item in everything if not item.keep), str(error))

    def _forget(self) -> None:
        if self.page is not None:
            self.page.forget()

    def _reset(self, error: Exception) -> None:
        """Close an open transaction; also the connection, except after a lock or a full disk.

        A lost file may be moved back; until then only the open connection refers to it.
        """
        if self._db is None or isinstance(error, StoreLostError):
            return
        try:
            if self._db.in_transaction:
                self._db.execute("rollback")
        except sqlite3.Error:
            self._disconnect()
        if not passing(error):
            self._disconnect()

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect(self.path)
            self._opened += 1
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _run_plain(db: sqlite3.Connection, item: _Item) -> bool:
    """Run a function; returns `False` if it failed after changing rows."""
    before = db.total_changes
    return _run(db, item) or db.total_changes == before


def _run(db: sqlite3.Connection, item: _Item) -> bool:
    """Run a function; returns whether it succeeded. Raises errors of the store; others are stored in the item."""
    try:
        item.result = item.fn(db)
    except Exception as error:
        if unavailable(error) or not db.in_transaction:
            raise
        item.error = error
    return item.error is None


def _nothing(_: sqlite3.Connection) -> None:
    return None


def _fail(items: Iterable[_Item], why: str) -> None:
    failed = list(items)
    for item in failed:
        item.error = StoreUnavailableError(why)
    _deliver(failed)


def _deliver(items: Iterable[_Item]) -> None:
    """Resolve futures, waking each event loop only once, because a wake-up is a system call."""
    loops: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
    for item in items:
        if item.loop is None:
            _resolve(item)
        else:
            loops.setdefault(item.loop, []).append(item)
    for loop, group in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve_all, group)
        except RuntimeError:  # the loop is closed
            continue


def _resolve_all(items: Iterable[_Item]) -> None:
    for item in items:
        _resolve(item)


def _resolve(item: _Item) -> None:
    future = item.future
    if future is None or future.done():  # no caller, or the caller was cancelled
        return
    if item.error is None:
        future.set_result(item.result)
    else:
        future.set_exception(item.error)
