"""`interfaces.Ledger`, `Reports` and `Upkeep` on a PostgreSQL server that any number of processes share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store import reports
from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.interfaces import Difference
from codellama_proxy.store.postgres import housekeeping
from codellama_proxy.store.postgres.connections import Connections, forget_changes
from codellama_proxy.store.postgres.operations import Admit, Extend, NoRoomError, Note, as_write
from codellama_proxy.store.postgres.outbox import trim
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.postgres.standings import reconcile, standings
from codellama_proxy.store.postgres.waiting_settlements import WAIT_SECONDS, WaitingSettlements
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.queries import Query
from codellama_proxy.store.sql.row_reports import RowReports
from codellama_proxy.store.write_queue import WriteQueue

BATCH_PAUSE_SECONDS = 0.02
"""Pause for other writes between two batches of housekeeping."""

MAX_WAIT_SECONDS = 10.0
"""How long a request waits for a server that neither answers nor breaks the connection."""
FOLD_TRIES = 10
FOLD_PAUSE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Ledger(RowReports):
    """The ledger of an installation; `settle` never blocks and never fails."""

    def __init__(
        self,
        queue: WriteQueue[PostgresSession],
        connections: Connections,
        patience: float = MAX_WAIT_SECONDS,
        settle_within: float = WAIT_SECONDS,
    ) -> None:
        """Seconds that a request waits for the database, and a settlement for others to be written with."""
        self._queue = queue
        self._patience = patience
        self._connections = connections
        self._ends = WaitingSettlements(queue, settle_within)
        queue.before_barrier = self._ends.post
        self.dropped = 0
        """Number of tracking records removed to make room for newer ones."""

    async def admit(self, ask: AdmissionRequest) -> Admission:
        """Hold the maximum cost. Raises `ProxyError`: a limit, model_not_priced or accounting_unavailable."""
        if not self._queue.healthy:  # nothing waits for a server that is away
            raise accounting_unavailable()
        if self._ends.let_pass(ask):
            try:
                return await self._admit(Admit(ask, passing=True))
            except NoRoomError:
                self._ends.found_no_room()
        return await self._admit(Admit(ask))

    async def _admit(self, admit: Admit) -> Admission:
        try:
            async with asyncio.timeout(self._patience):
                admission: Admission = await self._queue.run(as_write(admit))
        except (StoreUnavailableError, TimeoutError) as error:
            # The commit may have succeeded, and the row must not stay held.
            self.settle(Settlement(admit.ask.request_id, "error", 503, basis="exact"))
            raise accounting_unavailable() from error
        self._ends.held(admit.ask.request_id, admission.hold_nanos)
        return admission

    async def extend(self, extension: Extension) -> int:
        """Hold more for a further attempt; returns the nano-USD added. Raises as `admit`."""
        if not self._queue.healthy:
            raise accounting_unavailable()
        self._ends.post()
        try:
            async with asyncio.timeout(self._patience):
                added: int = await self._queue.run(as_write(Extend(extension)))
        except (StoreUnavailableError, TimeoutError) as error:
            raise accounting_unavailable() from error
        self._ends.held(extension.request_id, added)
        return added

    def note(self, extension: Extension) -> None:
        """Queue the record of a further attempt that needs no money held, for the settlement after a crash."""
        with suppress(StoreUnavailableError):  # closed; the settlement will contain all attempts
            self._queue.post(as_write(Note(extension)))

    def settle(self, settlement: Settlement) -> None:
        """Have the end of a request written soon; retried until it is; ignored if the request was never admitted."""
        self._ends.add(settlement)

    def close(self) -> None:
        """Queue everything; called before the queue is closed."""
        self._ends.close()

    async def recover(self) -> int:
        """Nothing: the workers of an installation settle what dead ones hold."""
        return 0

    # --- reports -----------------------------------------------------------------------------------------------

    async def standing(self, key: Key, snapshot: Snapshot) -> tuple[ScopeState, ...]:
        """The present state of a key's scopes: always its own and its project's, others if limited."""
        scopes = _with_own_scopes(limits.scopes_of(snapshot, snapshot.project(key.project), key, None), key)
        try:
            async with asyncio.timeout(self._patience):
                await self._queue.barrier()
            found = await self._connections.run(lambda db: standings(db, scopes))
        except (StoreUnavailableError, TimeoutError) as error:
            raise accounting_unavailable() from error
        return tuple([await self._with_spending(one) for one in found])

    async def _with_spending(self, standing: ScopeState) -> ScopeState:
        """A scope without a budget has no balance; its spending is the sum of its rows."""
        if standing.scope.limits.max_budget is not None:
            return standing
        rows = await self._read(queries.spend_query((), reports.of_scope(standing.scope.id)))
        return standing._replace(spent_nanos=reports.spent(rows), held_nanos=0, resets_at=None)

    async def reconcile(self) -> list[Difference]:
        """Balances, and sums by hour and day, that differ from their rows; none in a sound database."""
        await self._queue.barrier()
        return await self._connections.run(reconcile)

    async def _read(self, query: Query) -> list[tuple[Any, ...]]:
        sql, values = query
        try:
            async with asyncio.timeout(self._patience):
                await self._queue.barrier()  # includes every request whose response was sent
            return await self._connections.all(sql, tuple(values))
        except (StoreUnavailableError, TimeoutError) as error:
            raise accounting_unavailable() from error

    async def _sum(self, query: Query) -> list[tuple[Any, ...]]:
        return await self._read(query)

    async def _in_sums(self) -> int:
        ((upto,),) = await self._read((usage_totals.SQL["upto"], []))
        return int(upto)

    # --- upkeep ------------------------------------------------------------------------------------------------

    async def roll_up(self) -> int:
        """Add settled requests to the sums that reports read, in batches; returns about how many.

        Also makes the partitions of the next days, and drops the oldest tracking records if there are too many.
        """
        await self._connections.run(lambda db: housekeeping.make_partitions(db, time.time()))
        await self._repeated(lambda db: housekeeping.index_users(db, time.time()))
        self.dropped += await self._connections.run(trim)
        await self._connections.run(forget_changes)
        steps = (housekeeping.roll_up, housekeeping.fill_keys, housekeeping.fill_hours)
        return sum([await self._repeated(step) for step in steps])

    async def _repeated(self, step: Callable[[PostgresSession], int]) -> int:
        """The sum of what a step returns, until that is 0."""
        done = 0
        while count := await self._connections.run(step):
            done += count
            await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return done

    async def fold(self, before: float) -> int:
        """Fold rows older than `before` into daily totals, a partition at a time; returns their number.

        Also removes balances that are not limited any more.
        """
        await self._connections.run(housekeeping.drop_unlimited_scopes)
        folded = 0
        while count := await self._patiently(lambda db: housekeeping.fold(db, before)):
            folded += count
            await asyncio.sleep(BATCH_PAUSE_SECONDS)
        return folded

    async def _patiently(self, fn: Callable[[PostgresSession], int]) -> int:
        """A partition cannot be dropped while a report reads it: wait for the report without holding up others."""
        for _ in range(FOLD_TRIES):
            try:
                return await self._connections.run(fn)
            except StoreUnavailableError:
                await asyncio.sleep(FOLD_PAUSE_SECONDS)
        return await self._connections.run(fn)


def _with_own_scopes(scopes: tuple[ScopeLimits, ...], key: Key) -> tuple[ScopeLimits, ...]:
    known = {scope.id for scope in scopes}
    own = (f"project:{key.project}", f"key:{key.key_id}")
    return scopes + tuple(ScopeLimits(scope, Limits()) for scope in own if scope not in known)
