"""The balance of one scope in memory: its window, its rates, and the sums of its rows. Knows no database."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from codellama_proxy.core.clock import iso
from codellama_proxy.core.snapshot import Limits
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import UNRATED, Levels, ScopeLimits, elapsed, level_after, refill
from codellama_proxy.limits.windows import Window, is_rolling, turned, window


class WindowSums(NamedTuple):
    """What the requests of a scope in one window cost, in nano-USD."""

    first_seq: int
    """The sequence of the window's first request: one after the last request outside of the window."""
    spent: int
    """By settled requests that still have rows."""
    held: int
    folded: int
    """By requests that only daily totals contain."""


class ScopeRows(Protocol):
    """Queries over the rows of one scope, by scope ID; each reads the database."""

    def running(self, scope: str) -> int:
        """Number of held rows."""

    def first_use(self, scope: str) -> float | None:
        """When its first request was created; `None` without any request."""

    def window_sums(self, scope: str, start: float, end: float, day: str) -> WindowSums:
        """Sums of the requests from `start` to before `end`, with whole folded days from `day` (`YYYY-MM-DD`)."""


class ScopeBalance:
    """One scope in memory; `first_seq` is `None` before the scope's first budget. Nano-USD."""

    __slots__ = (
        "changed",
        "duration",
        "first_seq",
        "folded",
        "held",
        "limits",
        "rates",
        "rates_before",
        "running",
        "spent",
        "window",
    )

    def __init__(self) -> None:
        self.rates: Levels = UNRATED
        self.rates_before: Levels = UNRATED
        """Now, and when it was written last."""
        self.limits: Limits | None = None
        """Those of the latest admission, if any."""
        self.duration: str | None = None
        self.window: Window | None = None
        self.first_seq: int | None = None
        self.spent = self.held = self.folded = 0
        self.running: int | None = None
        """Running requests: counted from the rows at the first use, then in memory; `None` before."""
        self.changed = False
        """More than the rates has to be written."""

    @property
    def is_written(self) -> bool:
        """Whether nothing changed since its row was taken for writing."""
        return not self.changed and self.rates is self.rates_before

    def admitted(self, hold: int) -> None:
        """Add a request. `hold`: nano-USD."""
        if hold and self.first_seq is not None:
            self.held += hold
            self.changed = True
        if self.running is not None:
            self.running += 1

    def is_full(self, now: float) -> bool:
        """Whether its rates have refilled to their limits."""
        limits = self.limits
        if limits is None:
            return False
        rpm, tpm, rated_at = self.rates
        minutes, _ = elapsed(rated_at, now)
        return _is_full(rpm, limits.rpm_limit, minutes) and _is_full(tpm, limits.tpm_limit, minutes)

    def counts(self, seq: int) -> bool:
        """Whether the budget's present window includes the request."""
        return self.first_seq is not None and self.first_seq <= seq

    def extended(self, seq: int, hold: int) -> None:
        """Increase the hold of an admitted request."""
        if hold and self.counts(seq):
            self.held += hold
            self.changed = True

    def settled(self, seq: int, hold: int, cost: int, tokens: int) -> None:
        """Replace a hold by the cost, if the window includes the request; return `tokens` to the token rate."""
        first = self.first_seq
        if first is not None and first <= seq:
            self.held -= hold
            self.spent += cost
            self.changed = True
        if tokens:
            rpm, tpm, at = self.rates
            if tpm is not None:
                self.rates = (rpm, tpm + tokens, at)
        if self.running is not None:
            self.running -= 1


def _is_full(level: float | None, limit: int | None, minutes: float) -> bool:
    """Whether a bucket is full after `minutes`, or has no limit."""
    return limit is None or level_after(level, limit, minutes) == limit


def is_current(balance: ScopeBalance, limits: Limits, now: float) -> bool:
    """Whether `state` is right without reading rows: running requests counted, and the window of `now` open."""
    if limits.max_parallel_requests is not None and balance.running is None:
        return False
    if limits.max_budget is None:
        return True
    opened, duration = balance.window, limits.budget_duration
    if opened is None or balance.duration != duration:
        return False
    return opened.contains(now) or turned(opened, duration, now) is opened


def state(scope: ScopeLimits, balance: ScopeBalance, now: float) -> ScopeState:
    """The scope's state at `now`, of a balance that `refresh` made current: levels refilled."""
    return ScopeState(
        scope,
        refill(balance.rates, scope.limits, now),
        balance.running or 0,
        balance.spent,
        balance.held,
        balance.window.end if balance.window else None,
    )


def refresh(balance: ScopeBalance, scope: ScopeLimits, now: float, rows: ScopeRows) -> None:
    """Count running requests and open the window of `now`, as far as the limits need it.

    The window stays open when the request is refused: it cost sums. An error of `rows` changes nothing.
    """
    limits = scope.limits
    if limits.max_budget is not None:
        _open_window(balance, scope.id, limits.budget_duration, now, rows)
    if limits.max_parallel_requests is not None and balance.running is None:
        balance.running = rows.running(scope.id)


def _open_window(
    balance: ScopeBalance, scope: str, duration: str | None, now: float, rows: ScopeRows
) -> None:
    opened = balance.window
    if opened is None or balance.duration != duration:
        # Rows from the future, of a clock that was wrong, count: a changed limit forgets nothing.
        _sum_up(balance, scope, window(duration, now, _anchor(scope, duration, now, rows)), math.inf, rows)
        balance.duration = duration
    elif (now_open := turned(opened, duration, now)) is not opened:
        if now_open.start > opened.start:
            _sum_up(balance, scope, now_open, now_open.end or math.inf, rows)
        balance.window = now_open
        balance.changed = True


def _anchor(scope: str, duration: str | None, now: float, rows: ScopeRows) -> float:
    """When the scope's windows begin: at its first use if they are rolling, else at `now`."""
    first = rows.first_use(scope) if is_rolling(duration) else None
    return now if first is None else first


def _sum_up(balance: ScopeBalance, scope: str, opened: Window, end: float, rows: ScopeRows) -> None:
    """Set the window, with the sums of what its requests before `end` spent and hold."""
    # Folded days are indivisible: a rolling window that began within one includes all of it.
    sums = rows.window_sums(scope, opened.start, end, iso(max(opened.start, 0.0))[:10])
    balance.first_seq, balance.spent, balance.held = sums.first_seq, sums.spent + sums.folded, sums.held
    balance.folded = sums.folded
    balance.window = opened
    balance.changed = True
