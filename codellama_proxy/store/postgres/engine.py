"""`write_queue.Engine` on a PostgreSQL server: the ledger's transactions, the heartbeat, and what follows a reconnect.

A commit that was not answered may have succeeded, or its backend may still be at it. The next transaction begins with
an update of the same `workers` row, so it waits until that is decided. Failed admissions are then settled at no cost,
and settlements are repeated: both take effect at most once, because settling moves a row.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from codellama_proxy.limits.admission import Settlement
from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres import workers
from codellama_proxy.store.postgres.batch import Batch, ScopesMissingError, WorkerGoneError
from codellama_proxy.store.postgres.cache_purges import CachePurges
from codellama_proxy.store.postgres.operations import HoldAgain, Operation, Settle, chunks
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
from codellama_proxy.store.postgres.workers import BEAT_SECONDS, Identity, Watch
from codellama_proxy.store.queued_write import QueuedWrite

MAX_TRIES = 4
"""Of one transaction that finds scopes without a row, or that this process was taken for dead."""
CRASH_ESTIMATE = "crash_estimate"
"""The basis of what another process settled."""
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
        self._described: tuple[str, float] = ("", 0.0)
        self._beat_at = -BEAT_SECONDS
        self._watch = Watch(clock)
        self._memory = RequestsInMemory(clock)
        self._clock_reported = False
        self.cache_purges = CachePurges(clock)
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
        return self._watch.configurations + Counter([own] if own else [])

    # --- write_queue.Engine ------------------------------------------------------------------------------------

    @property
    def due_in(self) -> float | None:
        return max(0.0, self._beat_at + BEAT_SECONDS - self._clock())

    def open(self) -> None:
        self._connected()

    def commit(self, items: Sequence[QueuedWrite], *, even_if_empty: bool = False) -> None:
        db = self._connected()
        try:
            for chunk in chunks(items):
                self._run(db, chunk)
            if even_if_empty or not self.due_in:
                self._run_batch(db, [])
            if self._watch.due_in <= 0:
                self._watch.look(db, self._worker)
                self._describe(db)
            self.cache_purges.look(db)
        except ServerError as error:
            raise StoreUnavailableError(sentence(self._address, error)) from None

    def read(self, item: QueuedWrite) -> None:
        try:
            item.result = item.fn(self._connected())
        except (ServerError, StoreError) as error:
            item.error = StoreUnavailableError(sentence(self._address, error))
        except Exception as error:  # delivered to the caller
            item.error = error

    def reset(self, error: Exception) -> None:
        self._disconnect()
        self._watch.forget()

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
        """The connection; after a reconnect, lost requests are put back first. Raises `StoreError`."""
        if self._db is not None and self._db.usable:
            return self._db
        self._disconnect()
        db = connect(self._address)
        try:
            if not self._worker:
                self._register(db)
            else:
                self._look_back(db)
        except ServerError as error:
            db.close()
            raise StoreUnavailableError(sentence(self._address, error)) from None
        except BaseException:
            db.close()
            raise
        self._opened += 1
        self._db = db
        return db

    def _register(self, db: PostgresSession) -> None:
        self._worker = workers.register(db, self._identity)
        self._described = (self._identity.digest, self._identity.loaded_at)
        self.cache_purges.look(db)

    def _describe(self, db: PostgresSession) -> None:
        """Tell other processes which configuration is in force."""
        now = (self._identity.digest, self._identity.loaded_at)
        if now != self._described:
            values = {"worker": self._worker, "digest": now[0], "loaded_at": now[1]}
            db.native(SQL["describe"], values)
            self._described = now

    def _look_back(self, db: PostgresSession) -> None:
        """Put back what the database lacks of the last minute, and settle held rows that this process does not know."""
        self._run_batch(db, [])  # waits for an earlier transaction of this process
        memory = self._memory
        held = {name for (name,) in db.native(SQL["own_held"], (self._worker,)).fetchall()}
        ended = {one.end.request_id: one for one in memory.ended}
        names = [*memory.running, *ended]
        settled = dict(db.native(SQL["known_settled"], (names,)).fetchall())
        for name in settled.keys() & memory.running.keys():
            memory.gone(name, repeated=settled[name] != CRASH_ESTIMATE)
        lost = [row for name, row in memory.running.items() if name not in held]
        lost += [one.row for name, one in ended.items() if name not in settled and name not in held]
        unsettled = [one.end for name, one in ended.items() if name not in settled]
        unknown = held - memory.running.keys() - ended.keys()
        if lost or unsettled:
            log.warning(
                "the database lost %d requests and %d settlements; putting them back",
                len(lost),
                len(unsettled),
            )
        if lost:
            self._run_all(db, [HoldAgain(row) for row in lost])
        self._run_all(db, [Settle(end) for end in unsettled])
        self._run_all(db, [Settle(Settlement(name, "error", 503, basis="exact")) for name in sorted(unknown)])

    def _run_all(self, db: PostgresSession, operations: Sequence[Operation]) -> None:
        items = [_queued(one) for one in operations]
        for start in range(0, len(items), workers.REAP_ROWS):
            for chunk in chunks(items[start : start + workers.REAP_ROWS]):
                self._run(db, chunk)

    # --- transactions ------------------------------------------------------------------------------------------

    def _run(self, db: PostgresSession, chunk: list[QueuedWrite]) -> None:
        for item in chunk:
            item.error = None
        if not isinstance(chunk[0].fn, Operation):
            self._run_function(db, chunk[0])
            return
        try:
            rest = chunk
            while rest:
                rest = self._run_batch(db, rest)
        except StoreError:
            raise
        except Exception as error:  # values that cannot be sent are no error of the server
            if isinstance(error, ServerError) and not about_values(error):
                raise
            self._isolate(db, rest, error)

    def _isolate(self, db: PostgresSession, items: list[QueuedWrite], error: Exception) -> None:
        """One of the items cannot be written: run each alone, so that it does not undo the work of others."""
        if len(items) > 1:
            for item in items:
                self._run(db, [item])
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
            batch = Batch(db, self._worker, self._memory, self._identity.loaded_at)
            try:
                rest, beat = batch.run(items)
            except (ScopesMissingError, WorkerGoneError) as error:
                db.roll_back()
                if last == MAX_TRIES - 1:
                    raise StoreUnavailableError(str(error)) from None
                self._mend(db, error)
            except BaseException:
                if db.usable:
                    db.roll_back()
                raise
            else:
                self._count_late(items)
                self._beaten(*beat)
                return rest
        raise AssertionError("the last try returns or raises")

    def _mend(self, db: PostgresSession, error: ScopesMissingError | WorkerGoneError) -> None:
        if isinstance(error, ScopesMissingError):
            workers.open_scopes(db, error.scopes)
            return
        log.warning("%s; registering again", error)
        self._register(db)
        self._watch.forget()

    def _count_late(self, items: Sequence[QueuedWrite]) -> None:
        for item in items:
            if not isinstance(item.fn, Settle) or item.result is not False or item.fn.end.http_status == 503:
                continue
            name = item.fn.end.request_id
            if not self._memory.was_written(name):
                self.late_settlements += 1
                self._memory.gone(name, repeated=False)
                log.warning("request %s was settled by another process before it ended", name)

    def _beaten(self, at: float, version: int) -> None:
        self._beat_at = self._clock()
        self.keys_version = (self._opened, version, self._beat_at)
        difference = at - self._wall()
        if abs(difference) > CLOCK_DIFFERENCE_SECONDS and not self._clock_reported:
            self._clock_reported = True
            log.warning("this machine's clock differs from the database's by %.1f s", difference)


def _queued(operation: Operation) -> QueuedWrite:
    return QueuedWrite(operation, None, None, keep=True, inside=True)  # type: ignore[arg-type]
