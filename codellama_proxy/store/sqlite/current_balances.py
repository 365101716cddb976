"""Keeps the balances in memory current: reads those that are missing, and opens windows from the rows.

Reading happens on the writer's thread, after everything that was queued before. What happens to a scope meanwhile is
recorded and added to the sums, so that no request has to wait for another scope's window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.ledger.balances import Balances
from codellama_proxy.store.ledger.scope_balance import ScopeBalance
from codellama_proxy.store.sqlite import scope_store
from codellama_proxy.store.sqlite.writer import Writer


class Change(NamedTuple):
    """What one event changed in every scope of its request."""

    scopes: tuple[str, ...]
    seq: float
    """Of the request; infinite for a new one."""
    hold: int
    cost: int
    running: int


class CurrentBalances:
    """For the event loop's thread."""

    def __init__(self, writer: Writer, balances: Balances) -> None:
        self._writer = writer
        self._balances = balances
        self._lock = asyncio.Lock()
        self.wanted: tuple[str, ...] = ()
        """The scopes that are being read, or were read last."""
        self._since: list[Change] | None = None
        """What happened since the sums were asked for; `None` if none are."""

    def changed(self, scopes: tuple[str, ...], seq: float, hold: int, cost: int, running: int) -> None:
        """Record an event, after its change of the balances."""
        if self._since is not None:
            self._since.append(Change(scopes, seq, hold, cost, running))

    async def read(
        self, ids: Sequence[str], scopes: Sequence[ScopeLimits], now: float, post: Callable[[], None]
    ) -> None:
        """Have the balances of `ids` in memory, as far as they have rows, and those of `scopes` current.

        `post`: queues all events for the writer. Raises `StoreUnavailableError`.
        """
        async with self._lock:
            self.wanted = tuple(ids)
            missing = self._balances.missing(ids)
            if missing:
                self._balances.add(await self._writer.run(lambda db: scope_store.read(db, missing)))
            stale = self._balances.stale(scopes, now)
            if stale:
                await self._open_windows(stale, now, post)

    async def _open_windows(
        self, scopes: Sequence[ScopeLimits], now: float, post: Callable[[], None]
    ) -> None:
        kept = self._balances.kept
        post()  # the sums are of the rows: they have to contain every event so far
        before = {scope.id: copy(kept[scope.id]) for scope in scopes}
        self._since = []
        try:
            opened = await self._writer.run(lambda db: scope_store.open_windows(db, before, scopes, now))
            for scope, balance in opened.items():
                _adopt(kept[scope], balance, [change for change in self._since if scope in change.scopes])
        except BaseException:
            for scope in before:  # the commit may have succeeded: to be summed up again
                kept[scope].window = None
            raise
        finally:
            self._since = None


def _adopt(balance: ScopeBalance, opened: ScopeBalance, since: Sequence[Change]) -> None:
    """Take over the window and its sums, and add what happened since."""
    balance.window, balance.duration, balance.first_seq = opened.window, opened.duration, opened.first_seq
    balance.spent, balance.held, balance.running = opened.spent, opened.held, opened.running
    balance.changed |= bool(since)  # a batch may have written the window before over the new one
    for change in since:
        if balance.first_seq is not None and balance.first_seq <= change.seq:
            balance.held += change.hold
            balance.spent += change.cost
        if balance.running is not None:
            balance.running += change.running
