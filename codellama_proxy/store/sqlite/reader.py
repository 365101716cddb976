"""Reads the database on read-only connections: key lookups on the event loop, queries on a thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiosqlite

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.sqlite.connection import BUSY_MS, read_uri, unavailable

Row = tuple[Any, ...]

INTERRUPT_SECONDS = 0.05
"""Between two tries to stop a statement that nothing waits for any more."""
CHECK_STEPS = 10_000
"""Steps of a statement between two looks at the clock; about 1 ms."""


class Reader:
    """One statement per call, each seeing everything committed before it. Open it after the writer."""

    def __init__(self, path: str | Path, max_seconds: float | None = None) -> None:
        """`max_seconds`: longer statements of `all` are stopped."""
        self._path = Path(path)
        self._limit = None if max_seconds is None else TimeLimit(max_seconds)
        self._db: aiosqlite.Connection | None = None
        self._turn = asyncio.Lock()
        """One statement at a time is given to the thread, so that the one that runs can be stopped."""
        self._quick: sqlite3.Connection | None = None
        """Used on the event loop's thread, for lookups by key."""

    async def open(self) -> None:
        db = await aiosqlite.connect(read_uri(self._path), uri=True, isolation_level=None)
        await db.execute_fetchall("pragma query_only=on")
        await db.execute_fetchall("pragma trusted_schema=off")
        await db.execute_fetchall(f"pragma busy_timeout={BUSY_MS:d}")
        if self._limit is not None:
            await db.set_trace_callback(self._limit.begin)
            await db.set_progress_handler(self._limit.is_over, CHECK_STEPS)
        self._db = db
        self._quick = sqlite3.connect(read_uri(self._path), uri=True, isolation_level=None, timeout=0)
        self._quick.execute("pragma query_only=on")
        self._quick.execute("pragma trusted_schema=off")
        # A connection keeps the write-ahead log in place from its first statement on.
        self._quick.execute("select 1 from sqlite_schema").fetchone()

    async def close(self) -> None:
        db, self._db = self._db, None
        quick, self._quick = self._quick, None
        if quick is not None:
            quick.close()
        if db is not None:
            await db.close()

    def at_once(self, sql: str, parameters: Mapping[str, Any]) -> Row | None:
        """The row of a lookup by key, read on the calling thread. Raises as `all`."""
        if self._quick is None:
            raise StoreUnavailableError("the store is closed")
        try:
            found: Row | None = self._quick.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            if not unavailable(error):
                raise
            raise StoreUnavailableError(str(error)) from error
        return found

    async def all(self, sql: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[Row]:
        """All rows of one statement, which is stopped if the caller is cancelled.

        Raises `StoreUnavailableError`: the file cannot be read, it took too long.
        """
        try:
            async with self._turn:
                if self._db is None:
                    raise StoreUnavailableError("the store is closed")
                return await self._rows(self._db, sql, parameters)
        except sqlite3.Error as error:
            if not unavailable(error) and getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
                raise
            raise StoreUnavailableError(str(error)) from error

    @staticmethod
    async def _rows(
        db: aiosqlite.Connection, sql: str, parameters: Mapping[str, Any] | tuple[Any, ...]
    ) -> list[Row]:
        running = asyncio.ensure_future(db.execute_fetchall(sql, parameters))
        try:
            return [tuple(row) for row in await asyncio.shield(running)]
        except asyncio.CancelledError:
            while not running.done():  # the thread may not have begun with it
                await db.interrupt()
                await asyncio.wait((running,), timeout=INTERRUPT_SECONDS)
            if not running.cancelled():
                running.exception()  # retrieved, so that asyncio does not log it
            raise

    async def one(self, sql: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> Row | None:
        """The first row, or `None`."""
        rows = await self.all(sql, parameters)
        return rows[0] if rows else None


class TimeLimit:
    """Stops statements that run longer than `seconds`. Both methods are called on the connection's thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = 0.0

    def begin(self, _: str) -> None:
        """A statement begins."""
        self._until = time.monotonic() + self._seconds

    def is_over(self) -> int:
        """Not 0: SQLite stops the statement."""
        return time.monotonic() > self._until
