"""Reads the ledger for HTTP, and maintains its sums."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.queries import Query
from codellama_proxy.store.sql.row_reports import RowReports
from codellama_proxy.store.sqlite import daily_totals as folding
from codellama_proxy.store.sqlite.connection import read_uri
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.roll_up import roll_up
from codellama_proxy.store.sqlite.writer import Writer

BATCH_PAUSE_SECONDS = 0.02
"""Pause for other writes between two batches of folding or of sums."""


class LedgerReports(RowReports):
    """Every method includes the requests whose response was sent before the call."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        sums: Reader | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`sums`: a separate reader for sums and counts, so that pages of rows do not wait for them."""
        self._writer = writer
        self._reader = reader
        self._sums = sums or reader
        self._clock = clock

    async def _read(self, query: Query) -> list[tuple[Any, ...]]:
        return await self._all(self._reader, query)

    async def _sum(self, query: Query) -> list[tuple[Any, ...]]:
        return await self._all(self._sums, query)

    async def _all(self, reader: Reader, query: Query) -> list[tuple[Any, ...]]:
        sql, values = query
        try:
            await self._writer.barrier()  # includes every request whose response was sent
            return await reader.all(sql, tuple(values))
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error

    async def reconcile(self) -> list[Difference]:
        """Balances, and sums by hour and day, that differ from their rows; none in a sound database."""
        await self._writer.barrier()
        return await asyncio.to_thread(self._reconcile)

    def _reconcile(self) -> list[Difference]:
        with closing(sqlite3.connect(read_uri(self._writer.path), uri=True, isolation_level=None)) as db:
            return folding.reconcile(db)

    async def roll_up(self) -> int:
        """Add settled requests to the sums that reports read, in batches; returns about how many."""
        added = 0
        await self._writer.barrier()
        for step in (roll_up, usage_totals.fill_keys, usage_totals.fill_hours):
            while count := await self._writer.run(step):
                added += count
                await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return added

    async def fold(self, before: float) -> int:
        """Fold rows older than `before` into daily totals, in batches; returns their number."""
        folded = 0
        await self._writer.barrier()
        before = min(before, self._clock() // DAY * DAY)  # whole days
        while count := await self._writer.run(lambda db: folding.fold(db, before)):
            folded += count
            await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return folded
