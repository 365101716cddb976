"""A few connections for everything but the ledger's transactions, used on threads; opened when they are needed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, TypeVar

from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.session import (
    PostgresSession,
    ServerError,
    about_statement,
    about_values,
    connect,
    sentence,
)

MAX_CONNECTIONS = 2
IDLE_SECONDS = 60.0
"""After which an unused connection is closed."""
STATEMENT_SECONDS = 30
CHANGE_IDLE_SECONDS = 5
"""How long the transaction of a change may wait for this process."""
CHANGE_KEPT_SECONDS = 3600.0
"""How long the number of a change is kept, which tells whether it took effect."""

# Waits for a backend that still works on the same change.
_MARK = """
insert into changes_made (number, made_at) values (%s, extract(epoch from clock_timestamp())::float8)
on conflict do nothing
"""
_FORGET = "delete from changes_made where made_at < extract(epoch from clock_timestamp())::float8 - %s"

T = TypeVar("T")

log = logging.getLogger(__name__)


class _BrokenConnectionError(StoreUnavailableError):
    """The connection was lost, not only the statement."""


def forget_changes(db: PostgresSession) -> int:
    """Drop the numbers of changes that are not asked for any more; returns how many."""
    return db.native(_FORGET, (CHANGE_KEPT_SECONDS,)).rowcount


class _Reading:
    """A read that may be given up: its connection, while it uses one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._session: PostgresSession | None = None
        self.given_up = False

    @contextmanager
    def on(self, db: PostgresSession) -> Iterator[None]:
        """Raises `StoreUnavailableError` if it was given up."""
        with self._lock:
            if self.given_up:
                raise StoreUnavailableError("nothing waits for it any more")
            self._session = db
        try:
            yield
            with self._lock:
                if self.given_up:  # the server may be told so later than the statement ended
                    db.close()
        finally:
            with self._lock:
                self._session = None

    def give_up(self) -> None:
        """Stop the statement, if it runs, or have it not begin."""
        with self._lock:
            self.given_up = True
            if self._session is not None:
                self._session.cancel()


class Connections:
    """Runs functions on a connection of its own each; `usable` is asked first, so that nothing waits in an outage."""

    def __init__(
        self,
        address: ServerAddress,
        usable: Callable[[], bool] = lambda: True,
        most: int = MAX_CONNECTIONS,
        statement_seconds: int = STATEMENT_SECONDS,
    ) -> None:
        self._address = address
        self._usable = usable
        self._statement_seconds = statement_seconds
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="store-reader")
        self._lock = Lock()
        self._idle: list[tuple[float, PostgresSession]] = []
        self._closed = False

    async def run(self, fn: Callable[[PostgresSession], T]) -> T:
        """The result of `fn`, on a thread. Raises `StoreUnavailableError`.

        A function may run twice, after a connection that turned out to be closed.
        """
        return await self._on_thread(self._run, fn)

    async def change(self, fn: Callable[[PostgresSession], T]) -> T:
        """The same in a transaction that takes effect once, also if the connection breaks at its commit."""
        return await self._on_thread(self._change, fn)

    async def _on_thread(
        self, run: Callable[[Callable[[PostgresSession], T]], T], fn: Callable[[PostgresSession], T]
    ) -> T:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if not self._usable():
            raise StoreUnavailableError("the database cannot be used at the moment")
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, fn)

    async def all(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement of `store.sql` that only reads.

        It is stopped after `statement_seconds`, or when the caller is cancelled.
        """
        reading = _Reading()

        def read(db: PostgresSession) -> list[tuple[Any, ...]]:
            with reading.on(db):
                return db.rows(sql, values, self._statement_seconds)

        try:
            return await self._on_thread(self._run, read)
        except asyncio.CancelledError:
            await asyncio.to_thread(reading.give_up)
            raise

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for _, db in self._idle:
            db.close()
        self._idle.clear()

    # --- on a thread -------------------------------------------------------------------------------------------

    def _run(self, fn: Callable[[PostgresSession], T]) -> T:
        db = self._kept()
        if db is not None:
            with suppress(_BrokenConnectionError):  # from before a restart of the server, perhaps
                return self._use(db, fn)
        return self._use(self._opened(), fn)

    def _change(self, fn: Callable[[PostgresSession], T]) -> T:
        number = secrets.randbits(63)
        done: list[T] = []

        def once(db: PostgresSession) -> T:
            with db.transaction(CHANGE_IDLE_SECONDS):
                if db.native(_MARK, (number,)).rowcount:
                    done[:] = [fn(db)]
            return done[0]

        try:
            return self._run(once)
        except _BrokenConnectionError:
            if not done:
                raise
        return self._use(self._opened(), once)

    def _opened(self) -> PostgresSession:
        try:
            return connect(self._address)
        except StoreError as error:  # the file with the password is being replaced, perhaps
            raise StoreUnavailableError(str(error)) from None

    def _use(self, db: PostgresSession, fn: Callable[[PostgresSession], T]) -> T:
        try:
            result = fn(db)
        except ServerError as error:
            if about_values(error):
                self._keep(db)
                raise
            if about_statement(error):
                log.error("the database refused a statement: %s", sentence(self._address, error))
            kind = StoreUnavailableError if db.usable else _BrokenConnectionError
            db.close()
            raise kind(sentence(self._address, error)) from None
        except BaseException:
            self._keep(db)
            raise
        self._keep(db)
        return result

    def _kept(self) -> PostgresSession | None:
        now = time.monotonic()
        with self._lock:
            expired = [db for since, db in self._idle if since < now - IDLE_SECONDS]
            self._idle = [(since, db) for since, db in self._idle if since >= now - IDLE_SECONDS]
            found = self._idle.pop()[1] if self._idle else None
        for db in expired:
            db.close()
        return found

    def _keep(self, db: PostgresSession) -> None:
        if not db.usable:
            db.close()
            return
        with self._lock:
            self._idle.append((time.monotonic(), db))
