"""Admits requests and settles them, each in one transaction on the writer's thread.

Admission reads every scope of a request, decides (`admission.decide`, pure), and writes the balances and a `held`
row. Settlement completes that row only while it is held, so it takes effect once; it releases the hold and books the
cost in the same transaction. Both go through one queue, so a settlement finds the admission queued before it, even if
the caller of the admission was cancelled.

Rows that a crash leaves held are settled at the next start, at their maximum cost.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store import reports
from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sqlite import daily_totals as folding
from codellama_proxy.store.sqlite.balances import ScopeBalances
from codellama_proxy.store.sqlite.connection import read_uri
from codellama_proxy.store.sqlite.ledger_entries import LedgerEntries
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

MAX_PENDING_TO_UNDO = 1000
"""Number of queued writes above which no settlement is queued to undo a failed admission."""
BATCH_PAUSE_SECONDS = 0.02
"""Pause for other writes between two batches of folding or of sums."""

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one database; `settle` never blocks and never fails."""

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
        self._entries = LedgerEntries(ScopeBalances(wall=clock))
        writer.deferred = self._entries.balances

    async def admit(self, ask: AdmissionRequest) -> Admission:
        """Hold the maximum cost. Raises `ProxyError`: a limit, model_not_priced or accounting_unavailable."""
        try:
            return await self._writer.run(lambda db: self._entries.admit(db, ask))
        except StoreUnavailableError as error:
            self._undo(ask.request_id)
            raise accounting_unavailable() from error

    async def extend(self, extension: Extension) -> int:
        """Hold more for a further attempt; returns the nano-USD added. Raises as `admit`."""
        try:
            now = self._clock()
            return await self._writer.run(lambda db: self._entries.extend(db, extension, now))
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error

    def note(self, extension: Extension) -> None:
        """Queue the record of a further attempt that needs no money held, for the settlement after a crash."""
        with suppress(StoreUnavailableError):  # closed; the settlement will contain all attempts
            self._writer.post(lambda db: self._entries.note(db, extension))

    def settle(self, settlement: Settlement) -> None:
        """Queue the end of a request; retried until it is written; ignored if the request was never admitted."""
        try:
            self._writer.post(lambda db: self._entries.settle(db, settlement))
        except StoreUnavailableError:
            # Already closed: the row stays held, and the next start settles it.
            log.error("request %s ended after the ledger was closed", settlement.request_id)

    def _undo(self, request_id: str) -> None:
        """Settle a failed admission: its commit may have succeeded, and the row must not stay held."""
        if self._writer.pending < MAX_PENDING_TO_UNDO:
            self.settle(Settlement(request_id, "error", 503, basis="exact"))

    @property
    def dropped(self) -> int:
        """Number of tracking records removed to make room for newer ones."""
        return self._entries.dropped

    async def recover(self) -> int:
        """Settle rows that a crash left held; returns their number. Call before the first admission."""
        return await self._writer.run(self._entries.recover)

    async def standing(self, key: Key, snapshot: Snapshot) -> tuple[ScopeState, ...]:
        """The present state of a key's scopes: always its own and its project's, others if limited."""
        scopes = _with_own_scopes(limits.scopes_of(snapshot, snapshot.project(key.project), key, None), key)
        now = self._clock()
        try:  # on the writer's thread: opening a window may need sums that agree with each other
            standings = await self._writer.run(lambda db: self._entries.standings(db, scopes, now))
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error
        return tuple([await self._with_spending(standing) for standing in standings])

    async def _with_spending(self, standing: ScopeState) -> ScopeState:
        """A scope without a budget has no balance; its spending is the sum of its rows."""
        if standing.scope.limits.max_budget is not None:
            return standing
        rows = await self._read(*queries.spend_query((), reports.of_scope(standing.scope.id)))
        return standing._replace(spent_nanos=reports.spent(rows), held_nanos=0, resets_at=None)

    async def logs(self, filters: Filters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """One page of rows, newest first, and the total number."""
        rows = await self._read(*queries.logs_query(filters, page, size))
        (total,) = (await self._read(*queries.count_query(filters), self._sums))[0]
        return [reports.log_row(row) for row in rows], total

    async def request(self, request_id: str) -> dict[str, Any] | None:
        """One row, with its `content` if that was stored; `None` if there is none."""
        rows = await self._read(*queries.request_query(request_id))
        return reports.whole_row(rows[0]) if rows else None

    async def before(self, filters: Filters, request_id: str, size: int) -> list[dict[str, Any]] | None:
        """Rows older than a request, newest first; `None` if there is no such request."""
        found = await self._read(queries.SQL["seq_of"], (request_id,))
        if not found:
            return None
        rows = await self._read(*queries.before_query(filters, found[0][0], size))
        return [reports.log_row(row) for row in rows]

    async def spend(
        self, group_by: Sequence[str], filters: Filters, page: int = 1, size: int = reports.MAX_ROWS
    ) -> dict[str, Any]:
        """Sums over rows and daily totals, as in `/spend`: a page of groups, and the sums over all groups."""
        rows = await self._read(*queries.spend_page_query(group_by, filters, page, size), self._sums)
        return reports.page_of_groups(group_by, rows)

    async def _read(
        self, sql: str, values: Sequence[Any], reader: Reader | None = None
    ) -> list[tuple[Any, ...]]:
        try:
            await self._writer.barrier()  # includes every request whose response was sent
            return await (reader or self._reader).all(sql, tuple(values))
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
        while count := await self._writer.run(usage_totals.roll_up):
            added += count
            await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return added

    async def fold(self, before: float) -> int:
        """Fold rows older than `before` into daily totals, in batches; returns their number."""
        folded = 0
        while count := await self._writer.run(lambda db: self._entries.fold(db, before, self._clock())):
            folded += count
            await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return folded


def _with_own_scopes(scopes: tuple[ScopeLimits, ...], key: Key) -> tuple[ScopeLimits, ...]:
    known = {scope.id for scope in scopes}
    own = (f"project:{key.project}", f"key:{key.key_id}")
    return scopes + tuple(ScopeLimits(scope, Limits()) for scope in own if scope not in known)
