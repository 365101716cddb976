"""The balances of scopes in memory, for an engine that owns its database. Waits for nothing.

A balance is read once, changed by the requests of its scope, and written with their rows, because many requests share
few scopes. Rates alone are written at most `RATES_SECONDS` later, unless they are full again by then, which is what a
scope without a row has: a crash forgets that much of a rate's minute, and no money.

Spending is kept from a scope's first budget on. What was spent before is in the rows of requests: it is summed up
once, when the budget is new, its duration changes or its window turns, never at a usual admission.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import takewhile

from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.ledger.scope_balance import ScopeBalance, is_current

MAX_BALANCES = 110_000
"""Balances in memory, of 100,000 keys and their projects; those unused for longest are read again when needed."""
RATES_SECONDS = 1.0
"""How long a change of rates alone may stay unwritten."""


class Balances:
    """The balances in memory, by scope ID."""

    def __init__(
        self,
        most: int = MAX_BALANCES,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._most = most
        self._clock = clock
        self._wall = wall
        self.kept: OrderedDict[str, ScopeBalance] = OrderedDict()
        """In the order of their last use."""
        self.complete = False
        """Every scope with a row is in memory, so one that is not has no row and needs none without limits."""
        self._unwritten: OrderedDict[str, float] = OrderedDict()
        """Scopes whose rates are not written, and since when; the oldest first."""

    def add(self, found: Mapping[str, ScopeBalance]) -> None:
        """Add balances that were read, unless they are in memory already."""
        for scope, balance in found.items():
            self.kept.setdefault(scope, balance)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """The scopes that have to be read first."""
        return [] if self.complete else [scope for scope in ids if scope not in self.kept]

    def stale(self, scopes: Iterable[ScopeLimits], now: float) -> list[ScopeLimits]:
        """Of scopes that are not `missing`: those whose rows have to be read to know their state at `now`."""
        kept, found = self.kept, []
        for scope in scopes:
            scope_id, limits = scope
            balance = kept.get(scope_id)
            if balance is None and self.complete:
                balance = kept[scope_id] = ScopeBalance()
            if balance is None or not is_current(balance, limits, now):
                found.append(scope)
        return found

    @property
    def due_in(self) -> float | None:
        """Seconds until rates have to be written; `None` if all are."""
        since = next(iter(self._unwritten.values()), None)
        return None if since is None else max(since + RATES_SECONDS - self._clock(), 0.0)

    def take_changed(
        self, touched: Iterable[tuple[str, ...]], *, everything: bool = False
    ) -> dict[str, ScopeBalance]:
        """The balances that have to be written now. `touched`: the scopes of requests since the last time.

        `everything`: also rates that may wait.
        """
        now = self._clock()
        changed: dict[str, ScopeBalance] = {}
        for scope in {scope for ids in touched for scope in ids}:
            balance = self.kept.get(scope)
            if balance is None:
                continue
            self.kept.move_to_end(scope)
            if balance.changed:
                changed[scope] = balance
                balance.changed = False
                self._unwritten.pop(scope, None)
            elif balance.rates is not balance.rates_before:
                self._unwritten.setdefault(scope, now)
            balance.rates_before = balance.rates
        changed.update(self._overdue(math.inf if everything else now - RATES_SECONDS))
        return changed

    def _overdue(self, before: float) -> dict[str, ScopeBalance]:
        """The balances whose rates are unwritten since `before` or longer; they no longer count as such."""
        overdue = list(takewhile(lambda scope: self._unwritten[scope] <= before, self._unwritten))
        for scope in overdue:
            del self._unwritten[scope]
        now = self._wall()
        return {scope: self.kept[scope] for scope in overdue if not self.kept[scope].is_full(now)}

    def evict(self, running: Callable[[], Collection[str]]) -> None:
        """Forget balances above the maximum. `running`: the scopes of requests that are not settled yet."""
        if len(self.kept) <= self._most:
            return
        needed = running()
        for scope in list(self.kept)[: len(self.kept) - self._most * 9 // 10]:
            if scope not in needed and scope not in self._unwritten and self.kept[scope].is_written:
                del self.kept[scope]
                self.complete = False
