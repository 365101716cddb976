"""Reads the database beside the writer, on a connection that cannot write."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiosqlite

from codellama_proxy.store.database import BUSY_MS, StoreUnavailable, read_uri, unavailable

Row = tuple[Any, ...]


class Reader:
    """One statement per call, each seeing everything committed before it. Open it after the writer."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._db: aiosqlite.Connection | None = None

    async def open(self) -> None:
        db = await aiosqlite.connect(read_uri(self._path), uri=True, isolation_level=None)
        await db.execute_fetchall("pragma query_only=on")
        await db.execute_fetchall("pragma trusted_schema=off")
        await db.execute_fetchall(f"pragma busy_timeout={BUSY_MS:d}")
        self._db = db

    async def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await db.close()

    async def all(self, sql: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[Row]:
        """Every row of one statement; `StoreUnavailable` if the file cannot be read."""
        if self._db is None:
            raise StoreUnavailable("the store is closed")
        try:
            return [tuple(row) for row in await self._db.execute_fetchall(sql, parameters)]
        except sqlite3.Error as error:
            if not unavailable(error):
                raise
            raise StoreUnavailable(str(error)) from error

    async def one(self, sql: str, parameters: Mapping[str, Any] | tuple[Any, ...] = ()) -> Row | None:
        """The first row, if there is one."""
        rows = await self.all(sql, parameters)
        return rows[0] if rows else None
