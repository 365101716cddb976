"""Writes the events of the ledger to SQLite in batches, soon after they happened.

One batch is written at a time, at most every `FLUSH_SECONDS` or `MAX_BATCH_EVENTS`; what happens meanwhile is the next
one. So a slow disk delays no request, until `MAX_STALL_SECONDS` have passed, or `MAX_UNWRITTEN_EVENTS` or
`MAX_UNWRITTEN_BYTES` wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.ledger.balances import Balances
from codellama_proxy.store.sqlite import scope_store
from codellama_proxy.store.sqlite.journal import Journal
from codellama_proxy.store.sqlite.ledger_batch import Batch
from codellama_proxy.store.sqlite.writer import Writer

FLUSH_SECONDS = 0.05
"""From an event to the start of its transaction. Larger batches need fewer statements for each row."""
MAX_BATCH_EVENTS = 256
"""Of which two belong to a usual request."""
DELETE_SECONDS = 1.0
"""Between two looks whether a checkpoint allows to delete journal files."""
MAX_STALL_SECONDS = 5.0
"""How long a batch may take before no more requests are admitted."""
MAX_UNWRITTEN_EVENTS = 20_000
MAX_UNWRITTEN_BYTES = 32 << 20
"""Of stored content and tracking records; what else an event has is small."""


class WriteBehind:
    """The events that are in the journal and not in SQLite. For the event loop's thread."""

    def __init__(
        self, writer: Writer, journal: Journal, balances: Balances, needed: Callable[[], set[str]]
    ) -> None:
        """`needed`: the scopes whose balances have to stay in memory."""
        self.batch = Batch()
        self.dropped = 0
        """Number of tracking records removed to make room for newer ones."""
        self._writer = writer
        self._journal = journal
        self._balances = balances
        self._needed = needed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deletion: asyncio.TimerHandle | None = None
        self.is_complete = True
        """No batch has failed for good."""
        self._writing = 0
        """Batches that are not committed, and their events and bytes."""
        self._events = self._bytes = 0
        self._since = 0.0
        """Monotonic time since which the oldest of them is being written."""
        self._delete_files()

    def changed(self) -> None:
        """To be called after every event: has it written soon."""
        if self.batch.events >= MAX_BATCH_EVENTS and not self._writing:
            self.post()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def check(self) -> None:
        """Raise `StoreUnavailableError` if nothing can be written, or not fast enough."""
        if self._writer.failure is not None:
            raise StoreUnavailableError(self._writer.failure)
        if self.stalled:
            raise StoreUnavailableError("the database is too slow")

    @property
    def is_written(self) -> bool:
        """Whether every event is in a committed transaction."""
        return self.is_complete and not self._writing and self.batch.is_empty

    @property
    def stalled(self) -> bool:
        if not self._writing:
            return False
        late = time.monotonic() - self._since > MAX_STALL_SECONDS
        many = self._events + self.batch.events >= MAX_UNWRITTEN_EVENTS
        return late or many or self._bytes + self.batch.bytes >= MAX_UNWRITTEN_BYTES

    def _flush(self) -> None:
        self._timer = None
        if not self._writing:
            self.post()

    def post(self, *, everything: bool = False) -> None:
        """Queue all events for the writer. `everything`: also rates that may wait."""
        batch = self.batch
        changed = self._balances.take_changed(batch.touched, everything=everything)
        batch.seal([scope_store.row_of(scope, balance) for scope, balance in changed.items()])
        if batch.is_empty:
            return
        self.batch = Batch()
        position = self._journal.position
        try:
            future = self._writer.submit(batch.write, keep=True)
        except StoreUnavailableError:  # closed: the journal has it
            self.is_complete = False
            return
        if not self._writing:
            self._since = time.monotonic()
        self._count(1, batch)
        future.add_done_callback(lambda done: self._tell(done, batch, position))

    def _count(self, batches: int, batch: Batch) -> None:
        self._writing += batches
        self._events += batches * batch.events
        self._bytes += batches * batch.bytes

    def _tell(self, done: Future[int], batch: Batch, position: int) -> None:
        """On the writer's thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._written, done, batch, position)

    def _written(self, done: Future[int], batch: Batch, position: int) -> None:
        self._count(-1, batch)
        self._since = time.monotonic()
        if done.exception() is not None:
            self.is_complete = False
        else:
            self.dropped += done.result()
            if self.is_complete:  # else the next start needs every file
                self._journal.covered(position, self._writer.commits)
        if self._deletion is None:
            self._delete_files()
        if not self._writing:  # every row that was taken is committed, so it can be read again at once
            self._balances.evict(self._needed)
        if self._timer is None:
            due_in = FLUSH_SECONDS if self.batch.events else self._balances.due_in
            if due_in is not None:
                self._timer = self._loop.call_later(due_in, self._flush)

    def _delete_files(self) -> None:
        """Delete journal files that are not needed any more, now or, without further events, after a checkpoint."""
        waiting = self._journal.delete(self._writer.checkpointed)
        self._deletion = self._loop.call_later(DELETE_SECONDS, self._delete_files) if waiting else None

    def close(self) -> None:
        """Queue everything; nothing may be added any more."""
        self.post(everything=True)
        for timer in (self._timer, self._deletion):
            if timer is not None:
                timer.cancel()
