"""Stores answers: the most recently used ones in memory, all of them in a SQLite file beside the database.

The file is separate from the database and used on its own thread, so that no failure affects the ledger: if the file
is locked, full, damaged or deleted, requests are only sent upstream again. Writes are not awaited. All keys in the
file are also in memory, so a miss needs no disk access. `troubles` counts failures by kind.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache.file import Row
from codellama_proxy.cache.key import CachedAnswer, CacheScope
from codellama_proxy.cache.memory import MAX_MEMORY_BYTES, LruCache
from codellama_proxy.cache.vectors import Vector
from codellama_proxy.store.errors import StoreError

DELETE_BATCH_ROWS = 200
"""Rows deleted in one maintenance step."""
MAX_QUEUED_WRITES = 1000
"""Writes that may wait for the disk; further answers are stored in memory only."""
BATCH_SECONDS = 0.05
"""How long a write may wait for others: they share one transaction and one wake-up of the thread."""
PAUSE_SECONDS = 5.0
"""How long the file is not used after a failure."""

T = TypeVar("T")


Write = Row | Callable[[sqlite3.Connection], Any]
log = logging.getLogger(__name__)


class CacheStorage:
    """The stored answers. Disk errors are counted and logged, never raised."""

    def __init__(self, path: Path, monotonic: Callable[[], float], *, memory: int = MAX_MEMORY_BYTES) -> None:
        self.troubles: Counter[str] = Counter()
        self.memory = LruCache(memory)
        self._path = path
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, "cache")
        self._db: sqlite3.Connection | None = None
        self._known: dict[bytes, int] = {}
        """The keys in the file and the IDs of their answers, the oldest first."""
        self._most = 0
        """How many answers may be stored, by the latest one."""
        self._version = 0
        self._paused_until = float("-inf")
        self._queued: list[Write] = []
        """Writes for the next batch."""
        self._batch_timer: asyncio.TimerHandle | None = None
        self._wanted = 0
        self._written = 0
        """Writes queued so far, counted by the event loop, and done so far, counted by the thread."""

    async def open(self) -> None:
        await self._on_thread(lambda db: None)

    async def close(self) -> None:
        """Writes what is queued, then closes the file."""
        self._submit_batch()
        await asyncio.to_thread(self._thread.shutdown)
        if self._db is not None:
            self._db.close()

    # --- on the event loop -----------------------------------------------------------------------------------

    async def find(self, key: bytes, scope: CacheScope) -> CachedAnswer | None:
        """The answer, from memory or from the file; `None` if there is none."""
        kept = self.memory.get(key)
        if kept is not None or key not in self._known:
            return kept
        found = await self._on_thread(lambda db: self._read(db, key, scope))
        newer = self.memory.get(key)
        if newer is not None:  # stored during the read
            return newer
        if found is not None:
            self.memory.put(key, found, len(self._known) + 1)
        return found

    def may_have(self, key: bytes) -> bool:
        """Whether an answer is in memory or, unless it was deleted since, in the file."""
        return key in self._known or key in self.memory

    def put(self, key: bytes, answer: CachedAnswer, scope: CacheScope, model: str, most: int) -> None:
        """Stores an answer; at most `most` answers in total. Never waits."""
        self.memory.put(key, answer, most)
        self._most = most
        self.write(Row(key, f"{scope.kind}:{scope.name}", scope.project, model, answer))

    def put_vector(self, key: bytes, bucket: bytes, vector: Vector) -> None:
        """Stores the vector of an answer if the answer itself is stored. Never waits."""
        self.write(lambda db: self._put_vector(db, key, bucket, vector))

    def drop(self, key: bytes) -> None:
        self.memory.drop(key)
        self.write(lambda db: self._drop(db, key))

    def write(self, change: Write) -> None:
        """Queues a change of the file; drops it if `MAX_QUEUED_WRITES` are waiting."""
        if self._wanted - self._written >= MAX_QUEUED_WRITES:
            self.troubles["slow"] += 1
            return
        self._wanted += 1
        self._queued.append(change)
        if self._batch_timer is None:
            self._batch_timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self._submit_batch)

    def _submit_batch(self) -> None:
        """Gives the queued writes to the thread."""
        if self._batch_timer is not None:
            self._batch_timer.cancel()
            self._batch_timer = None
        batch, self._queued = self._queued, []
        if not batch:
            return

        def write_all() -> None:
            try:
                self._guarded(lambda db: self._write_all(db, batch))
            finally:
                self._written += len(batch)

        with suppress(RuntimeError):  # closed
            self._thread.submit(write_all)

    async def maintain(self, now: float, most: int) -> None:
        """Deletes a batch of expired and surplus answers; detects purges by other processes."""
        purged = await self._on_thread(lambda db: self._maintain(db, now, most))
        if purged:
            self.memory.clear()

    async def purge(self, project: str | None, model: str | None) -> None:
        """Deletes the answers to a project, or of a model; `None`: of all."""
        await self._on_thread(lambda db: self._purge(db, project, model))
        self.memory.clear()

    async def read(self, look: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of `look`; `None` if the file cannot be used."""
        return await self._on_thread(look)

    async def _on_thread(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        self._submit_batch()  # `use` sees every write before it
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, use)
        except RuntimeError:  # closed
            return None

    # --- on the thread ---------------------------------------------------------------------------------------

    def _guarded(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        """The result of `use`; on an SQLite or I/O error it is counted and the result is `None`."""
        if self._monotonic() < self._paused_until:
            return None
        try:
            return use(self._connected())
        except (sqlite3.Error, OSError, StoreError) as error:
            self._failed(error)
            return None

    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = answer_file.open_file(self._path)
            self._known = answer_file.keys(self._db)
            self._version = answer_file.version(self._db)
        return self._db

    def _failed(self, error: Exception) -> None:
        kind = answer_file.kind_of(error)
        if not self.troubles[kind]:
            log.warning(
                "the cache's file %s cannot be used (%s); requests are sent upstream", self._path, error
            )
        self.troubles[kind] += 1
        if self._db is not None:
            self._db.close()
            self._db = None
        if kind == "damaged":
            answer_file.remove(self._path)
        else:
            self._paused_until = self._monotonic() + PAUSE_SECONDS
        self._known = {}

    def _read(self, db: sqlite3.Connection, key: bytes, scope: CacheScope) -> CachedAnswer | None:
        answer_id = self._known.get(key)
        if answer_id is None:
            return None
        try:
            found = answer_file.find(db, answer_id, key, f"{scope.kind}:{scope.name}")
        except ValueError:  # an invalid row
            self.troubles["corrupt"] += 1
            found = None
        if found is None:
            self._drop(db, key)
        return found

    def _write_all(self, db: sqlite3.Connection, batch: Sequence[Write]) -> None:
        """Makes the changes in one transaction; none of them if one fails.

        Answers are not written between a purge by another process and `maintain`: they may be older than the purge.
        """
        db.execute("begin immediate")
        try:
            rows: list[Row] = []
            if answer_file.version(db) != self._version:
                batch = [change for change in batch if not isinstance(change, Row)]
            for change in batch:
                if isinstance(change, Row):
                    rows.append(change)
                else:
                    self._put(db, rows)
                    rows = []
                    change(db)
            self._put(db, rows)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise

    def _put(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        if not rows:
            return
        latest = {row.key: row for row in rows}
        replaced = [self._known.pop(key) for key in latest if key in self._known]
        if replaced:
            answer_file.drop(db, replaced)
        first = answer_file.put(db, [*latest.values()])
        self._known.update(zip(latest, count(first)))
        self._shrink(db, self._most, max(len(latest), DELETE_BATCH_ROWS))

    def _put_vector(self, db: sqlite3.Connection, key: bytes, bucket: bytes, vector: Vector) -> None:
        answer_id = self._known.get(key)
        if answer_id is not None:
            answer_file.put_vector(db, answer_id, key, bucket, vector)

    def _drop(self, db: sqlite3.Connection, key: bytes) -> None:
        answer_id = self._known.pop(key, None)
        if answer_id is not None:
            answer_file.drop(db, [answer_id])

    def _shrink(self, db: sqlite3.Connection, most: int, at_once: int = DELETE_BATCH_ROWS) -> None:
        """Deletes the oldest answers beyond `most`, at most `at_once` of them."""
        over = min(len(self._known) - most, at_once)
        if over > 0:
            oldest = dict(islice(self._known.items(), over))
            answer_file.drop(db, [*oldest.values()])
            for key in oldest:
                del self._known[key]

    def _purge(self, db: sqlite3.Connection, project: str | None, model: str | None) -> None:
        answer_file.purge(db, project, model)
        self._known = answer_file.keys(db)

    def _maintain(self, db: sqlite3.Connection, now: float, most: int) -> bool:
        version = answer_file.version(db)
        changed, self._version = version != self._version, version
        if changed:
            self._known = answer_file.keys(db)
        for key in answer_file.drop_expired(db, now, DELETE_BATCH_ROWS):
            self._known.pop(key, None)
        self._shrink(db, most)
        return changed
