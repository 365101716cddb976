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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.sqlite.checkpoint import Checkpointer
from codellama_proxy.store.sqlite.group_commit import GroupCommit, Page
from codellama_proxy.store.sqlite.queued_write import QueuedWrite, T, Write, deliver, fail

MAX_BATCH = 256
SHARE_COMMIT_SECONDS = 0.005
"""How long a fire-and-forget write may wait for other writes to share its commit."""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
DRAIN_SECONDS = 10.0
"""How long `close` retries writes queued with `keep`."""

log = logging.getLogger(__name__)


class Writer:
    """The write side of one database file. `start` and `close` block; everything else does not."""

    def __init__(self, path: str | Path, lost: Callable[[], str | None] = lambda: None) -> None:
        """`lost` returns why nothing may be written to the file any more, if so; called before each batch."""
        self.path = Path(path)
        self._group = GroupCommit(self.path, lost)
        self._queue: collections.deque[QueuedWrite] = collections.deque()
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._awake = False
        """The thread is awake or being woken, and will read the queue once more."""
        self._due = 0.0
        """Monotonic time of the scheduled wake-up for fire-and-forget writes."""
        self._kept: list[QueuedWrite] = []
        self._running = 0
        self._failure: str | None = None
        self._delay = FIRST_RETRY_SECONDS / 2
        self._closing = False
        self._give_up_at = float("inf")
        self._thread: threading.Thread | None = None
        self._checkpointer = Checkpointer(self.path, lambda: self.commits, lost=lost)

    # --- for any thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the file, creating it if missing, and start the threads. Raises `StoreError`."""
        self._group.open()
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
        fail(self._drain(), "the store is closed")

    @property
    def page(self) -> Page | None:
        """In-memory state that is written with each commit."""
        return self._group.page

    @page.setter
    def page(self, page: Page) -> None:
        self._group.page = page

    @property
    def commits(self) -> int:
        """Transactions committed so far."""
        return self._group.commits

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
        self._put(QueuedWrite(fn, future, None, keep, inside=True))
        return future

    def post(self, fn: Write[Any]) -> None:
        """Like `submit` with `keep`, but without a result, which is cheaper."""
        self._queue_up(QueuedWrite(fn, None, None, keep=True, inside=True))
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
        return self._group.opened, int(db.execute("pragma data_version").fetchone()[0])

    async def _ask(self, fn: Write[T], *, inside: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(QueuedWrite(fn, future, loop, keep=False, inside=inside))
        return await future

    def _put(self, item: QueuedWrite) -> None:
        self._queue_up(item)
        self._wake()

    def _queue_up(self, item: QueuedWrite) -> None:
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
                self._group.commit(
                    [item for item in batch if item.inside], even_if_empty=self._failure is not None
                )
            except Exception as error:  # a dead thread would leave every future pending
                self._failed(batch, error)
            else:
                self._committed(batch)
            self._running = 0
        fail(self._kept, "the store is closed and could not write any more")
        self._kept = []
        if self._failure is None:
            self._group.write_deferred()
        self._group.disconnect()

    def _finished(self) -> bool:
        return not self._kept or time.monotonic() >= self._give_up_at

    def _take(self) -> list[QueuedWrite]:
        """The next batch: kept functions, then queued ones. Waits for work, or for the next retry."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=self._group.due_in if self._failure is None else self._delay)
        self._awake = False  # later writes wake the thread again
        batch = self._kept + self._drain(MAX_BATCH)
        self._kept = []
        if self._queue:
            self._wake()
        return batch

    def _drain(self, most: int | None = None) -> list[QueuedWrite]:
        queued = self._queue
        count = len(queued) if most is None else min(len(queued), most)
        return [queued.popleft() for _ in range(count)]

    def _committed(self, batch: Sequence[QueuedWrite]) -> None:
        if self._failure is not None:
            log.warning("the store writes again: %s", self.path)
        self._failure = None
        self._delay = FIRST_RETRY_SECONDS / 2
        for item in batch:
            if not item.inside:
                self._group.read(item)
            elif item.keep and item.error is not None:
                log.error("a write that must not be lost failed", exc_info=item.error)
        deliver(batch)

    def _failed(self, batch: Sequence[QueuedWrite], error: Exception) -> None:
        """The batch was rolled back: fail its futures and those still in the queue, except for `keep`."""
        self._group.reset(error)
        if self._failure is None:
            log.error("the store cannot write to %s: %s", self.path, error)
        self._failure = str(error)
        self._delay = min(self._delay * 2, MAX_RETRY_SECONDS)
        everything = [*batch, *self._drain()]
        self._kept = [item for item in everything if item.keep]
        for item in self._kept:
            item.error = None
        fail((item for item in everything if not item.keep), str(error))


def _nothing(_: sqlite3.Connection) -> None:
    return None
