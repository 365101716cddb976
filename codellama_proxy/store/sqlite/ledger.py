"""Admits requests and settles them: decided in memory, promised by the journal, written to SQLite soon after.

Admission decides on the event loop from the balances in memory (`page`, pure), and appends the row to the journal:
from then on the death of the process cannot lose it. Rows and balances follow in batches on the writer's thread. What
the journal has and SQLite has not is written at the next start. If a balance is not in memory, or its window turns,
the admission waits for the writer's thread, which reads it.

Rows that a crash leaves held are settled at the next start, at their maximum cost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence

from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store import reports
from codellama_proxy.store.errors import StoreError, StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.ledger import journal_lines
from codellama_proxy.store.ledger.balances import Balances
from codellama_proxy.store.ledger.crashes import Orphan, crashed
from codellama_proxy.store.ledger.journal_lines import Extended, Settled
from codellama_proxy.store.ledger.page import Held, Page, scope_ids
from codellama_proxy.store.ledger.rows import estimated, extended_row, held_row, is_bookable, settled_row
from codellama_proxy.store.ledger.scope_balance import state
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sqlite import scope_store
from codellama_proxy.store.sqlite.current_balances import CurrentBalances
from codellama_proxy.store.sqlite.journal import Journal, files
from codellama_proxy.store.sqlite.ledger_batch import Running
from codellama_proxy.store.sqlite.ledger_reports import LedgerReports
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.replay import begin
from codellama_proxy.store.sqlite.scope_rows import SQL
from codellama_proxy.store.sqlite.write_behind import WriteBehind
from codellama_proxy.store.sqlite.writer import Writer

MAX_SCOPES_AT_START = 10_000
"""Balances read at a start; if there are more, each is read when it is needed."""

log = logging.getLogger(__name__)


class Ledger(LedgerReports):
    """The ledger of one database; `settle` never blocks and never fails. Between `open` and `close`."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        sums: Reader | None = None,
        *,
        clock: Callable[[], float] = time.time,
        balances: Balances | None = None,
    ) -> None:
        """`sums`: a separate reader for sums and counts, so that pages of rows do not wait for them."""
        super().__init__(writer, reader, sums, clock=clock)
        self._balances = balances or Balances(wall=clock)
        self._current = CurrentBalances(writer, self._balances)
        self._page = Page(self._balances.kept)
        self._running: dict[str, Running] = {}
        """Held requests, by ID."""
        self._waiting: dict[str, asyncio.Task[Admission]] = {}
        """Admissions that wait for balances to be read, by request ID."""
        self._seq = 0
        self._closed = False
        self._journal: Journal | None = None
        self._writes: WriteBehind | None = None

    async def open(self) -> None:
        """Write what an earlier process left in its journal, and begin a new one. Raises `StoreError`."""
        path, journal_id = self._writer.path, secrets.token_hex(16)
        try:
            left = files(path)
        except OSError as error:
            raise StoreError(f"cannot look for the journal of {path}: {error.strerror}") from error
        earlier, self._seq = await self._writer.run(lambda db: begin(db, left, journal_id))
        found = await self._writer.run(lambda db: scope_store.read_all(db, MAX_SCOPES_AT_START))
        self._balances.complete = found is not None
        self._balances.add(found or {})
        try:
            self._journal = Journal(path, journal_id, earlier)
        except OSError as error:
            raise StoreError(f"cannot write the journal of {path}: {error.strerror}") from error
        self._journal.covered(self._journal.position, self._writer.commits)
        self._writes = WriteBehind(self._writer, self._journal, self._balances, self._needed)
        self._writer.before_barrier = self._writes.post

    async def close(self) -> None:
        """Queue everything for the writer, to be called before it is closed. Admits and settles nothing any more."""
        if self._writes is not None:
            await asyncio.gather(*self._waiting.values(), return_exceptions=True)
            self._writes.close()
        self._closed = True

    def delete_journal(self) -> None:
        """Delete the journal if its events are in the database, to be called after the writer was closed."""
        if self._journal is not None and self._writes is not None:
            checkpointed = self._writer.checkpointed >= self._writer.commits
            self._journal.close(delete=checkpointed and self._writes.is_written)

    @property
    def healthy(self) -> bool:
        """Whether requests can be admitted. Tries a failed journal again."""
        if self._writes is None or self._journal is None or not self._writer.healthy or self._writes.stalled:
            return False
        if self._journal.failure is not None:
            try:
                self._journal.write(journal_lines.FILLER)
            except OSError:
                return False
        return True

    @property
    def dropped(self) -> int:
        """Number of tracking records removed to make room for newer ones."""
        return 0 if self._writes is None else self._writes.dropped

    # --- admission -----------------------------------------------------------------------------------------------

    async def admit(self, ask: AdmissionRequest) -> Admission:
        """Hold the maximum cost. Raises `ProxyError`: a limit, model_not_priced or accounting_unavailable."""
        ids = scope_ids(ask)
        try:
            if self._is_missing(ids) or self._balances.stale(ask.scopes, ask.created_at):
                return await self._admit_later(ask, ids)
            return self._admit(ask, ids)
        except (StoreUnavailableError, OSError) as error:
            raise accounting_unavailable() from error

    async def _admit_later(self, ask: AdmissionRequest, ids: tuple[str, ...]) -> Admission:
        """Not stopped by the cancellation of the caller, whose settlement waits for it."""
        task = asyncio.get_running_loop().create_task(self._read_and_admit(ask, ids))
        self._waiting[ask.request_id] = task
        task.add_done_callback(self._admitted_later(ask.request_id))
        return await asyncio.shield(task)

    def _admitted_later(self, request_id: str) -> Callable[[asyncio.Task[Admission]], None]:
        def done(task: asyncio.Task[Admission]) -> None:
            self._waiting.pop(request_id, None)
            if not task.cancelled():
                task.exception()  # known, even if the caller is gone

        return done

    async def _read_and_admit(self, ask: AdmissionRequest, ids: tuple[str, ...]) -> Admission:
        await self._read_scopes(ids, ask.scopes, ask.created_at)
        return self._admit(ask, ids)

    def _admit(self, ask: AdmissionRequest, ids: tuple[str, ...]) -> Admission:
        writes, request_id, page = self._opened(), ask.request_id, self._page
        writes.check()
        if request_id in self._running:
            raise ValueError(f"the request {request_id} is admitted already")
        decision = page.decide(ask)
        admission = decision.admission
        hold, seq = admission.hold_nanos, self._seq + 1
        row = held_row(ask, hold)
        self._write(journal_lines.admitted_line(seq, row))
        self._seq = seq
        running = self._running[request_id] = Running(Held(seq, ids, hold, ask.prompt_estimate), row)
        page.admit(ask, ids, decision)
        self._current.changed(ids, math.inf, hold, 0, 1)
        writes.batch.admit(running)
        writes.changed()
        return admission

    async def extend(self, extension: Extension) -> int:
        """Hold more for a further attempt; returns the nano-USD added. Raises as `admit`."""
        running = self._running.get(extension.request_id)
        if running is None:
            return 0
        budgets = [scope for scope in extension.scopes if scope.limits.max_budget is not None]
        now = self._clock()
        try:
            await self._read_scopes(running.held.scopes, budgets, now)
            nanos = self._page.decide_extension(extension, running.held, now)
            return self._extend(running, extension, nanos)
        except (StoreUnavailableError, OSError) as error:
            raise accounting_unavailable() from error

    def note(self, extension: Extension) -> None:
        """Record a further attempt that needs no money held, for the settlement after a crash."""
        running = self._running.get(extension.request_id)
        if running is not None:
            try:
                self._extend(running, extension, 0)
            except (StoreUnavailableError, OSError):
                return  # the settlement will contain all attempts

    def _extend(self, running: Running, extension: Extension, nanos: int) -> int:
        writes, held = self._opened(), running.held
        if self._running.get(extension.request_id) is not running:  # settled while it waited
            return 0
        row = extended_row(extension, nanos, held.estimate_tokens)
        hold = held.hold_nanos + nanos
        self._write(journal_lines.line(Extended(extension.request_id, hold, row)))
        self._page.extend(held, nanos)
        self._current.changed(held.scopes, held.seq, nanos, 0, 0)
        running.held = held._replace(hold_nanos=hold)
        writes.batch.extend(running, row)
        writes.changed()
        return nanos

    # --- settlement ----------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> None:
        """Book the end of a request, once; ignored if the request was never admitted."""
        waiting = self._waiting.get(settlement.request_id)
        if waiting is not None:
            waiting.add_done_callback(lambda _: self._settle(settlement))
        else:
            self._settle(settlement)

    def _settle(self, end: Settlement) -> None:
        writes = self._writes
        if writes is None or self._closed:
            # The row stays held, and the next start settles it.
            log.error("request %s ended after the ledger was closed", end.request_id)
            return
        running = self._running.pop(end.request_id, None)
        if running is None:
            return
        held = running.held
        if not is_bookable(end):
            log.error("request %s is booked at its estimate: its numbers are too large", end.request_id)
            end = estimated(end, held.estimate_tokens, held.hold_nanos or running.estimate_nanos)
        record = end.record
        text = None if record is None else record.decode(errors="replace")
        event = Settled(end.request_id, settled_row(end), end.content, text)
        try:
            self._write(journal_lines.settled_line(event))
            promised = True
        except Exception as error:  # the batch has it: only a crash before that would lose it
            promised = False
            log.error("request %s is not in the journal: %s", end.request_id, error)
        self._page.settle(held, end)
        self._current.changed(held.scopes, held.seq, -held.hold_nanos, end.cost_nanos or 0, -1)
        writes.batch.settle(running, event)
        if promised:
            writes.changed()
        else:
            writes.post()

    async def recover(self) -> int:
        """Settle rows that a crash left held; returns their number. Call before the first admission."""
        rows = await self._writer.run(lambda db: db.execute(SQL["orphans"]).fetchall())
        orphans = [row for row in rows if row[4] not in self._running]
        for seq, project, key_id, user, *orphan in orphans:
            left = Orphan(*orphan)
            ids = limits.scope_ids(project, key_id, user)
            await self._read_scopes(ids, (), self._clock())
            held = Held(seq, ids, left.hold_nanos, left.estimate_tokens)
            self._running[left.request_id] = Running(held, None)
            self.settle(crashed(left))
        await self._writer.barrier()
        return len(orphans)

    def _opened(self) -> WriteBehind:
        if self._writes is None or self._closed:
            raise StoreUnavailableError("the ledger is closed")
        return self._writes

    def _write(self, line: bytes) -> None:
        """Append a line to the journal. Raises `OSError`."""
        assert self._journal is not None
        self._journal.write(line)

    # --- balances ------------------------------------------------------------------------------------------------

    async def standing(self, key: Key, snapshot: Snapshot) -> tuple[ScopeState, ...]:
        """The present state of a key's scopes: always its own and its project's, others if limited."""
        scopes = _with_own_scopes(limits.scopes_of(snapshot, snapshot.project(key.project), key, None), key)
        now = self._clock()
        try:
            await self._read_scopes([scope.id for scope in scopes], scopes, now)
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error
        standings = [state(scope, self._balances.kept[scope.id], now) for scope in scopes]
        return tuple([await self._with_spending(standing) for standing in standings])

    async def _with_spending(self, standing: ScopeState) -> ScopeState:
        """A scope without a budget has no balance; its spending is the sum of its rows."""
        if standing.scope.limits.max_budget is not None:
            return standing
        rows = await self._read(queries.spend_query((), reports.of_scope(standing.scope.id)))
        return standing._replace(spent_nanos=reports.spent(rows), held_nanos=0, resets_at=None)

    def _is_missing(self, ids: Sequence[str]) -> bool:
        """Whether balances have to be read on the writer's thread, because the file is locked."""
        missing = self._balances.missing(ids)
        if missing:
            try:
                self._balances.add(scope_store.read_at_once(self._reader, missing))
            except StoreUnavailableError:
                return True
        return False

    async def _read_scopes(self, ids: Sequence[str], scopes: Sequence[ScopeLimits], now: float) -> None:
        """Have the balances of `ids` in memory if they have rows, and those of `scopes` current."""
        await self._current.read(ids, scopes, now, self._opened().post)

    def _needed(self) -> set[str]:
        """The scopes whose balances have to stay in memory."""
        running = {scope for one in self._running.values() for scope in one.held.scopes}
        return running | {*self._current.wanted}


def _with_own_scopes(scopes: tuple[ScopeLimits, ...], key: Key) -> tuple[ScopeLimits, ...]:
    known = {scope.id for scope in scopes}
    own = (f"project:{key.project}", f"key:{key.key_id}")
    return scopes + tuple(ScopeLimits(scope, Limits()) for scope in own if scope not in known)
