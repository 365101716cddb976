"""Queues writes for one thread, which gives them to an engine in batches; knows no database system.

The thread takes all queued functions, has the engine run them in one transaction and resolves their futures after the
commit. So a function is atomic, sees the effect of every function queued before it, is not interrupted by the
cancellation of its caller, and is cheap under load. A function may run twice, but commits once.

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
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.queued_write import Connection, QueuedWrite, T, Write, deliver, fail

MAX_BATCH = 256
SHARE_COMMIT_SECONDS = 0.005
"""How long a fire-and-forget write may wait for other writes to share its commit."""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
DRAIN_SECONDS = 10.0
"""How long `close` retries writes queued with `keep`."""

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A database's write connection. Used on the queue's thread, but for `open`."""

    @property
    def due_in(self) -> float | None:
        """Seconds until `commit` has to be called even if nothing is queued; 0 if now, `None` for never."""

    def open(self) -> None:
        """Connect, before the thread starts. Raises `StoreError`."""

    def commit(self, items: Sequence[QueuedWrite], *, even_if_empty: bool = False) -> None:
        """Run the functions in order in one transaction; without any, only if something is due or `even_if_empty`.

        Sets the result or the error of each item. An exception means that nothing of the batch was committed,
        unless only the commit itself failed.
        """

    def read(self, item: QueuedWrite) -> None:
        """Run a function after the commit, outside of the transaction; sets its result or error."""

    def reset(self, error: Exception) -> None:
        """Called after `commit` raised: roll back, and reconnect if the error may have broken the connection."""

    def write_deferred(self) -> None:
        """Write what is due later, before the end. Never raises."""

    def disconnect(self) -> None:
        """Close the connection."""


class WriteQueue(Generic[Connection]):
    """Writes to one database. `start` and `close` block; everything else does not."""

    def __init__(self, engine: Engine, name: str) -> None:
        """`name`: of the database, in messages."""
        self._name = name
        self._engine = engine
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
        self.before_barrier: Callable[[], None] = _nothing_to_queue
        """Queues what is not queued yet; called on the event loop's thread."""

    # --- for any thread ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the database and start the thread. Raises `StoreError`."""
        self._engine.open()
        self._thread = threading.Thread(target=self._work, name="store-writer")
        self._thread.start()

    def close(self, drain: float = DRAIN_SECONDS) -> None:
        """Write everything queued, retrying failures for at most `drain` seconds, then close the database."""
        if self._thread is None:
            return
        self._closing = True
        self._give_up_at = time.monotonic() + drain
        self.wake()
        self._thread.join()
        self._thread = None
        fail(self._drain(), "the store is closed")

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

    async def run(self, fn: Write[Connection, T]) -> T:
        """The result of `fn`, once it is committed. Cancelling the caller does not stop the function."""
        return await self._ask(fn, inside=True)

    def submit(self, fn: Write[Connection, T], *, keep: bool = False) -> concurrent.futures.Future[T]:
        """Queue `fn` from any thread without waiting; with `keep` it is retried until it is committed."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()  # a queued function cannot be cancelled
        self._put(QueuedWrite(fn, future, None, keep, inside=True))
        return future

    def post(self, fn: Write[Connection, Any]) -> None:
        """Like `submit` with `keep`, but without a result, which is cheaper."""
        self._queue_up(QueuedWrite(fn, None, None, keep=True, inside=True))
        now = time.monotonic()
        if self._awake or now < self._due:
            return
        try:
            asyncio.get_running_loop().call_later(SHARE_COMMIT_SECONDS, self._wake_if_queued)
            self._due = now + SHARE_COMMIT_SECONDS
        except RuntimeError:  # no event loop in this thread
            self.wake()

    def wake(self) -> None:
        """Have what is queued committed now."""
        if not self._awake:
            self._awake = True
            self._wakeups.put(None)

    def _wake_if_queued(self) -> None:
        # Event loops count in milliseconds, so this may be early: the next write schedules another.
        self._due = 0.0
        if self._queue:
            self.wake()

    async def barrier(self) -> None:
        """Return once everything queued before is committed; `StoreUnavailableError` if it could not be."""
        self.before_barrier()
        await self._ask(_nothing, inside=False)

    async def _ask(self, fn: Write[Connection, T], *, inside: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(QueuedWrite(fn, future, loop, keep=False, inside=inside))
        return await future

    def _put(self, item: QueuedWrite) -> None:
        self._queue_up(item)
        self.wake()

    def _queue_up(self, item: QueuedWrite) -> None:
        if self._closing or self._thread is None:
            raise StoreUnavailableError("the store is closed")
        self._queue.append(item)

    # --- on the queue's thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        while not (self._closing and not self._queue and self._finished()):
            batch = self._take()
            self._running = len(batch)
            try:
                self._engine.commit(
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
            self._engine.write_deferred()
        self._engine.disconnect()

    def _finished(self) -> bool:
        return not self._kept or time.monotonic() >= self._give_up_at

    def _take(self) -> list[QueuedWrite]:
        """The next batch: kept functions, then queued ones. Waits for work, or for the next retry."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=self._engine.due_in if self._failure is None else self._delay)
        self._awake = False  # later writes wake the thread again
        batch = self._kept + self._drain(MAX_BATCH)
        self._kept = []
        if self._queue:
            self.wake()
        return batch

    def _drain(self, most: int | None = None) -> list[QueuedWrite]:
        queued = self._queue
        count = len(queued) if most is None else min(len(queued), most)
        return [queued.popleft() for _ in range(count)]

    def _committed(self, batch: Sequence[QueuedWrite]) -> None:
        if self._failure is not None:
            log.warning("the store writes again: %s", self._name)
        self._failure = None
        self._delay = FIRST_RETRY_SECONDS / 2
        for item in batch:
            if not item.inside:
                self._engine.read(item)
            elif item.keep and item.error is not None:
                log.error("a write that must not be lost failed", exc_info=item.error)
        deliver(batch)

    def _failed(self, batch: Sequence[QueuedWrite], error: Exception) -> None:
        """The batch was rolled back: fail its futures and those still in the queue, except for `keep`."""
        self._engine.reset(error)
        if self._failure is None:
            log.error("the store cannot write to %s: %s", self._name, error)
        self._failure = str(error)
        self._delay = min(self._delay * 2, MAX_RETRY_SECONDS)
        everything = [*batch, *self._drain()]
        self._kept = [item for item in everything if item.keep]
        for item in self._kept:
            item.error = None
        fail((item for item in everything if not item.keep), str(error))


def _nothing_to_queue() -> None:
    return None


def _nothing(_: object) -> None:
    return None
