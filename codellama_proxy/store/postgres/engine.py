"""`write_queue.Engine` on a PostgreSQL server: the ledger's transactions, the heartbeat, and what follows a reconnect.

A transaction that the server undid is repeated: on a loaded machine a process may answer it too late, or wait too long
for a lock. A commit that was not answered may have succeeded, or its backend may still be at it. The process then asks
for the number of its last transaction, in its `workers` row, which that backend has locked until it is decided.
Settlements may be repeated anyway, because settling moves a row.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from codellama_proxy.limits.admission import Settlement
from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres import look_back, workers
from codellama_proxy.store.postgres.batch import Batch, ScopesMissingError, WorkerGoneError
from codellama_proxy.store.postgres.operations import Operation, Settle, chunks
from codellama_proxy.store.postgres.requests_in_memory import RequestsInMemory
from codellama_proxy.store.postgres.scope_rows import SQL
from codellama_proxy.store.postgres.session import (
    PostgresSession,
    ServerError,
    about_statement,
    about_values,
    connect,
    sentence,
)
from codellama_proxy.store.postgres.upkeep import Upkeep
from codellama_proxy.store.postgres.workers import BEAT_SECONDS, Identity
from codellama_proxy.store.queued_write import QueuedWrite

MAX_TRIES = 4
"""Of one transaction that finds scopes without a row, or that this process was taken for dead."""
MAX_REPEATS, REPEAT_SECONDS = 3, 6.0
"""How often, and within which time, a transaction is repeated that the server undid."""
CLOCK_DIFFERENCE_SECONDS = 1.0
"""From which on a difference to the database's clock is logged."""

log = logging.getLogger(__name__)


class PostgresEngine:
    """One connection and one worker row. Used on the queue's thread, but for `open` and the counters."""

    def __init__(
        self,
        address: ServerAddress,
        identity: Identity,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._address = address
        self._identity = identity
        self._clock = clock
        self._wall = wall
        self._db: PostgresSession | None = None
        self._worker = 0
        self._opened = 0
        self._beat_at = -BEAT_SECONDS
        self._upkeep = Upkeep(address, identity, clock)
        self._memory = RequestsInMemory(clock)
        self._clock_reported = False
        self._numbers = itertools.count(1)
        self._unanswered: Batch | None = None
        """A transaction whose commit failed: it may have taken effect."""
        self.cache_purges = self._upkeep.purges
        self.keys_version = (0, 0, 0.0)
        """The number of the connection, the version of keys that it read, and the monotonic time of that."""
        self.late_settlements = 0
        """Settlements of requests that another process had settled."""

    @property
    def number(self) -> int:
        """Of the row of this process in `workers`."""
        return self._worker

    @property
    def configurations(self) -> Counter[str]:
        """How many processes have a configuration in force, by its digest, as seen at the last look at the others."""
        own = self._identity.digest  # empty until the first configuration is in force
        return self._upkeep.watch.configurations + Counter([own] if own else [])

    # --- write_queue.Engine ------------------------------------------------------------------------------------

    @property
    def due_in(self) -> float | None:
        return 0.0 if self._upkeep.postponed else max(0.0, self._beat_at + BEAT_SECONDS - self._clock())

    def open(self) -> None:
        try:
            self._connected()
        except ServerError as error:
            raise StoreUnavailableError(sentence(self._address, error)) from None

    def commit(self, items: Sequence[QueuedWrite], *, even_if_empty: bool = False) -> None:
        try:
            for chunk in chunks(items):
                self._run_repeating(chunk)
            if even_if_empty or self._beat_at + BEAT_SECONDS <= self._clock():
                self._run_repeating([])
        except ServerError as error:
            raise StoreUnavailableError(sentence(self._address, error)) from None
        if self._db is not None and not self._upkeep.postpone(any(one.future is not None for one in items)):
            self._upkeep.run(self._db, self._worker)

    def read(self, item: QueuedWrite) -> None:
        try:
            item.result = item.fn(self._connected())
        except (ServerError, StoreError) as error:
            item.error = StoreUnavailableError(sentence(self._address, error))
        except Exception as error:  # delivered to the caller
            item.error = error

    def reset(self, error: Exception) -> None:
        self._disconnect()
        self._upkeep.watch.forget()

    def write_deferred(self) -> None:
        """Sign off, unless requests are still held."""
        with contextlib.suppress(ServerError, StoreError):
            self._connected().native(SQL["sign_off"], {"worker": self._worker})

    def disconnect(self) -> None:
        self._disconnect()

    # --- connecting --------------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(ServerError):
                db.close()

    def _connected(self) -> PostgresSession:
        """The connection; after a reconnect, lost requests are put back first.

        Raises `StoreError` if the server cannot be reached, and `ServerError`.
        """
        if self._db is not None and self._db.usable:
            return self._db
        self._disconnect()
        db = connect(self._address)
        try:
            if not self._worker:
                self._register(db)
            else:
                self._resolve(db)
                self._look_back(db)
        except BaseException:
            db.close()
            raise
        self._opened += 1
        self._db = db
        return db

    def _register(self, db: PostgresSession) -> None:
        self._worker = workers.register(db, self._identity)
        self._upkeep.registered(db)

    def _resolve(self, db: PostgresSession) -> None:
        """Find out whether the transaction whose commit was not answered took effect; waits while it is running."""
        batch = self._unanswered
        if batch is None:
            return
        row = db.native(SQL["last_batch"], (self._worker,)).fetchone()
        if row is not None and row[0] == batch.number:
            db.native(SQL["flush"])
            batch.remember()
            self._count_late(batch.items)
        elif row is not None:
            batch.committed = False
        self._unanswered = None

    def _look_back(self, db: PostgresSession) -> None:
        """Put back what the database lacks of the last minute, and settle held rows that this process does not know."""
        self._run_batch(db, [])
        for operations in look_back.missing(db, self._worker, self._memory):
            self._run_all(db, operations)

    def _run_all(self, db: PostgresSession, operations: Sequence[Operation]) -> None:
        items = [_queued(one) for one in operations]
        for start in range(0, len(items), workers.REAP_ROWS):
            for chunk in chunks(items[start : start + workers.REAP_ROWS]):
                self._run(db, chunk)

    # --- transactions ------------------------------------------------------------------------------------------

    def _run_repeating(self, chunk: list[QueuedWrite]) -> None:
        """Run a chunk, or only beat if it is empty; again if the server undid it for a reason that may pass.

        Raises `ServerError`, and `StoreError` if the server cannot be reached.
        """
        is_beat, give_up_at, tries = not chunk, self._clock() + REPEAT_SECONDS, 0
        doubt: Batch | None = None
        while True:
            try:
                db = self._connected()
                self._resolve(db)
                if doubt is not None:
                    _take_done(chunk, doubt)
                    doubt = None
                if chunk or is_beat:
                    self._run(db, chunk)
                return
            except ServerError as error:
                tries += 1
                refused = about_statement(error) or any(not isinstance(one.fn, Operation) for one in chunk)
                late = tries > 1 and self._clock() > give_up_at  # not at once: it may have been frozen
                if refused or tries > MAX_REPEATS or late:
                    raise
                log.warning("repeating a transaction: %s", sentence(self._address, error))
                doubt = doubt or self._unanswered  # a look back may fail before the first doubt is settled

    def _run(self, db: PostgresSession, chunk: list[QueuedWrite]) -> None:
        """Run a chunk, and remove from it what is done."""
        for item in chunk:
            item.error = None
        if chunk and not isinstance(chunk[0].fn, Operation):
            self._run_function(db, chunk[0])
            return
        try:
            while True:
                chunk[:] = self._run_batch(db, chunk)
                if not chunk:
                    return
        except StoreError:
            raise
        except Exception as error:  # values that cannot be sent are no error of the server
            if isinstance(error, ServerError) and not about_values(error):
                raise
            self._isolate(db, chunk, error)

    def _isolate(self, db: PostgresSession, items: list[QueuedWrite], error: Exception) -> None:
        """One of the items cannot be written: run each alone, so that it does not undo the work of others."""
        if len(items) > 1:
            while items:
                self._run(db, items[:1])
                del items[0]
            return
        item = items[0]
        if not isinstance(item.fn, Settle) or not self._settle_estimated(db, item.fn.end, error):
            item.error = error

    def _settle_estimated(self, db: PostgresSession, end: Settlement, error: Exception) -> bool:
        """Settle a request whose settlement cannot be stored: otherwise it is held until this process ends."""
        replaced = self._memory.estimated(end)
        if replaced is None:
            return False
        try:
            self._run_batch(db, [_queued(Settle(replaced))])
        except ServerError as again:
            if not about_values(again):
                raise
            return False
        log.error("request %s is booked at its estimate: %s", end.request_id, sentence(self._address, error))
        return True

    def _run_function(self, db: PostgresSession, item: QueuedWrite) -> None:
        try:
            with db.transaction():
                item.result = item.fn(db)
        except Exception as error:
            refused = about_values(error) or about_statement(error)
            if not db.usable or (isinstance(error, ServerError) and not refused):
                raise
            item.error = error

    def _run_batch(self, db: PostgresSession, items: list[QueuedWrite]) -> list[QueuedWrite]:
        """One transaction; returns the items that have to be in the next one."""
        for last in range(MAX_TRIES):
            number, began = next(self._numbers), self._clock()
            batch = Batch(db, self._worker, number, self._memory, self._identity.loaded_at)
            try:
                rest, beat = batch.run(items)
            except (ScopesMissingError, WorkerGoneError) as error:
                db.roll_back()
                if last == MAX_TRIES - 1:
                    raise StoreUnavailableError(str(error)) from None
                self._mend(db, error)
            except BaseException:
                self._unanswered = batch if batch.committing else None
                if db.usable:
                    db.roll_back()
                raise
            else:
                self._unanswered = None
                self._count_late(items)
                self._beaten(began, *beat)
                return rest
        raise AssertionError("the last try returns or raises")

    def _mend(self, db: PostgresSession, error: ScopesMissingError | WorkerGoneError) -> None:
        if isinstance(error, ScopesMissingError):
            workers.open_scopes(db, error.scopes)
            return
        log.warning("%s; registering again", error)
        self._register(db)
        self._upkeep.watch.forget()

    def _count_late(self, items: Sequence[QueuedWrite]) -> None:
        for item in items:
            if not isinstance(item.fn, Settle) or item.result is not False or item.fn.end.http_status == 503:
                continue
            name = item.fn.end.request_id
            if not self._memory.was_written(name):
                self.late_settlements += 1
                self._memory.gone(name, repeated=False)
                log.warning("request %s was settled by another process before it ended", name)

    def _beaten(self, began: float, at: float, version: int) -> None:
        self._beat_at = self._clock()
        self.keys_version = (self._opened, version, began)  # keys may have changed since the first statement
        difference = at - self._wall()
        if abs(difference) > CLOCK_DIFFERENCE_SECONDS and not self._clock_reported:
            self._clock_reported = True
            log.warning("this machine's clock differs from the database's by %.1f s", difference)


def _queued(operation: Operation) -> QueuedWrite:
    return QueuedWrite(operation, None, None, keep=True, inside=True)  # type: ignore[arg-type]


def _take_done(items: list[QueuedWrite], batch: Batch) -> None:
    """Remove what a transaction did whose commit was not answered.

    Raises `StoreUnavailableError` if that is not known: another process took this one for dead.
    """
    if batch.committed is None:
        raise StoreUnavailableError("it is not known whether the transaction took effect")
    if batch.committed:
        done = {id(item) for item in batch.items} - {id(item) for item in batch.rest}
        items[:] = [item for item in items if id(item) not in done]
