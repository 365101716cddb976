"""Admits requests and settles them, each in one transaction on the writer's thread: the truth about money.

Admission reads every scope of a request, decides (`admission.decide`, pure), then writes: the balances and a
row that is `held`. Settlement completes that row, and only while it is held, so it happens once however often
it is asked for; it releases the hold and books the cost in the same transaction. Both go through one queue,
so a settlement finds the admission that was asked for before it, even if nobody waited for its answer.

What a crash leaves held is settled at the next start at the most it may have cost.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import orjson

from codellama_proxy import limits, pricing
from codellama_proxy.admission import Admission, Ask, Settlement, Standing, decide
from codellama_proxy.errors import ProxyError
from codellama_proxy.limits import ScopeLimits
from codellama_proxy.store import balances, folding, spending
from codellama_proxy.store.balances import SQL, Account
from codellama_proxy.store.database import StoreUnavailable, read_uri
from codellama_proxy.store.reader import Reader
from codellama_proxy.store.spending import Filters
from codellama_proxy.store.writer import Writer
from codellama_proxy.types import Key, Snapshot, Usage

FORGET_WITHIN = 1000
"""Writes that may wait before we stop asking the store to forget what it could not admit."""

log = logging.getLogger(__name__)


class Ledger:
    """The ledger of one database; `settle` never blocks and never fails."""

    def __init__(self, writer: Writer, reader: Reader, *, clock: Callable[[], float] = time.time) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock

    async def admit(self, ask: Ask) -> Admission:
        """Hold what it may cost, or raise `Refused`, `model_not_priced`, `accounting_unavailable`."""
        try:
            return await self._writer.run(lambda db: admit(db, ask))
        except StoreUnavailable as error:
            self._forget(ask.request_id)
            raise _unavailable() from error

    def settle(self, settlement: Settlement) -> None:
        """Queue the end of a request, to be tried until it is written; ignored if it was never admitted."""
        try:
            self._writer.post(lambda db: settle(db, settlement))
        except StoreUnavailable:
            # Closed already: the row stays held, and the next start settles it.
            log.error("request %s ended after the ledger was closed", settlement.request_id)

    def _forget(self, request_id: str) -> None:
        """A commit that failed may have happened all the same; then its row must not stay held."""
        if self._writer.pending < FORGET_WITHIN:
            self.settle(Settlement(request_id, "error", 503, basis="exact"))

    async def recover(self) -> int:
        """Settle what the last process left held; how many there were. Call it before the first admission."""
        return await self._writer.run(recover)

    async def standing(
        self, project: str, key: Key | None, user: str | None, snapshot: Snapshot
    ) -> tuple[Standing, ...]:
        """The limited scopes of a caller as they are now."""
        scopes = limits.scopes_of(snapshot, project, key, user)
        ids = limits.scope_ids(project, key.key_id if key else None, user)
        now = self._clock()

        def look(db: sqlite3.Connection) -> tuple[Standing, ...]:
            return _standings(db, scopes, balances.accounts(db, ids), now)[0]

        try:  # on the writer's thread: opening a window may need sums that agree with each other
            return await self._writer.run(look)
        except StoreUnavailable as error:
            raise _unavailable() from error

    async def logs(
        self, filters: Filters, page: int = 1, size: int = 100
    ) -> tuple[list[dict[str, Any]], int]:
        """One page of rows, newest first, and how many there are in all."""
        rows = await self._read(*spending.logs_query(filters, page, size))
        (total,) = (await self._read(*spending.count_query(filters)))[0]
        return [spending.log_row(row) for row in rows], total

    async def request(self, request_id: str) -> dict[str, Any] | None:
        """One row whole, with `content` if that was kept."""
        rows = await self._read(*spending.request_query(request_id))
        return spending.whole_row(rows[0]) if rows else None

    async def spend(self, group_by: Sequence[str], filters: Filters) -> dict[str, Any]:
        """Sums over rows and daily totals, as `/spend` answers them."""
        return spending.summary(group_by, await self._read(*spending.spend_query(group_by, filters)))

    async def _read(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            await self._writer.barrier()  # whoever got an answer finds its row
            return await self._reader.all(sql, tuple(values))
        except StoreUnavailable as error:
            raise _unavailable() from error

    async def reconcile(self) -> list[folding.Difference]:
        """Balances that are not what their rows say: none, unless something is badly wrong."""
        await self._writer.barrier()
        return await asyncio.to_thread(self._reconcile)

    def _reconcile(self) -> list[folding.Difference]:
        with closing(sqlite3.connect(read_uri(self._writer.path), uri=True, isolation_level=None)) as db:
            return folding.reconcile(db)

    async def fold(self, before: float) -> int:
        """Turn requests older than `before` into daily totals, a batch at a time; how many went."""
        done = 0
        today = self._clock() // 86400 * 86400
        while count := await self._writer.run(lambda db: folding.fold(db, min(before, today))):
            done += count
        return done


def _unavailable() -> ProxyError:
    return ProxyError(
        "accounting_unavailable",
        "Spending cannot be recorded at the moment, so nothing was sent. Please try again.",
        retry_after=1.0,
    )


# --- on the writer's thread ---------------------------------------------------------------------------------


def admit(db: sqlite3.Connection, ask: Ask) -> Admission:
    """Read, decide, write; a refusal leaves nothing behind."""
    key_id = ask.key.key_id if ask.key else None
    ids = limits.scope_ids(ask.project, key_id, ask.user)
    accounts = balances.accounts(db, ids)
    standings, opened = _standings(db, ask.scopes, accounts, ask.created_at)
    decision = decide(ask, standings)
    hold = decision.admission.hold_nanos
    for standing, rates in zip(standings, decision.rates, strict=True):
        accounts[standing.scope.id] = opened[standing.scope.id].after(rates, hold)
    if hold:  # also scopes whose budget was taken away: it may come back
        limited = {scope.id for scope in ask.scopes}
        changed = {s: a if s in limited else a.after(a.rates, hold) for s, a in accounts.items()}
    else:
        changed = {scope.id: accounts[scope.id] for scope in ask.scopes}
    if changed:
        balances.put(db, changed.items())
    db.execute(
        SQL["hold"],
        (
            ask.request_id,
            ask.created_at,
            ask.project,
            key_id,
            None if ask.user is None else limits.user_name(ask.user),
            ask.endpoint,
            ask.model_requested,
            ask.stream,
            ask.config,
            hold,
            _estimate(ask),
            ask.prompt_estimate,
        ),
    )
    return decision.admission


def _estimate(ask: Ask) -> int | None:
    """What the request costs if nobody ever hears how it ended and nothing is held for it."""
    price = ask.prices[0] if ask.prices else None
    return None if price is None else pricing.cost(Usage(ask.prompt_estimate), price)


def _standings(
    db: sqlite3.Connection, scopes: Sequence[ScopeLimits], accounts: dict[str, Account], now: float
) -> tuple[tuple[Standing, ...], dict[str, Account]]:
    opened = {scope.id: balances.current(db, scope, accounts.get(scope.id), now) for scope in scopes}
    return tuple(_standing(scope, opened[scope.id], balances.running(db, scope)) for scope in scopes), opened


def _standing(scope: ScopeLimits, account: Account, running: int) -> Standing:
    return Standing(
        scope,
        account.rates,
        running,
        account.spent_nanos,
        account.held_nanos,
        account.window.end if account.window else None,
    )


def settle(db: sqlite3.Connection, end: Settlement) -> bool:
    """Complete a held row and book it; `False` if there is none."""
    usage = end.usage
    row = db.execute(
        SQL["complete"],
        (
            end.status,
            end.http_status,
            orjson.dumps([attempt.to_json() for attempt in end.attempts]).decode(),
            end.model,
            end.deployment,
            end.upstream_model,
            usage and usage.prompt_tokens,
            usage and usage.completion_tokens,
            usage and usage.cached_tokens,
            usage and usage.cache_write_tokens,
            usage and usage.reasoning_tokens,
            end.cost_nanos,
            end.saved_nanos,
            end.basis,
            end.cache,
            end.total_ms,
            end.request_id,
        ),
    ).fetchall()
    if not row:
        return False
    seq, project, key_id, user, hold, estimate = row[0]
    ids = limits.scope_ids(project, key_id, user)
    a, b, c, d = ids + ids[:1] * (balances.MOST_SCOPES - len(ids))
    db.execute(
        SQL["book"],
        {
            "seq": seq,
            "cost": end.cost_nanos or 0,
            "hold": hold,
            "tokens": estimate - _used(end, estimate),
            "a": a,
            "b": b,
            "c": c,
            "d": d,
        },
    )
    if end.content is not None:
        db.execute(SQL["keep_content"], (end.request_id, end.content))
    return True


def _used(end: Settlement, estimate: int) -> int:
    """Tokens for the rate limits: an answer from the cache used none of its own, but was asked for."""
    if end.basis == "cached":
        return estimate
    return end.usage.prompt_tokens + end.usage.completion_tokens if end.usage else 0


def recover(db: sqlite3.Connection) -> int:
    """Settle every held row at its hold, else at its input: what is uncertain never lowers a charge."""
    orphans = db.execute(SQL["orphans"]).fetchall()
    for request_id, hold, estimate, tokens in orphans:
        settle(
            db,
            Settlement(
                request_id,
                "error",
                None,
                usage=Usage(tokens),
                basis="crash_estimate",
                cost_nanos=hold or estimate,
            ),
        )
    return len(orphans)
