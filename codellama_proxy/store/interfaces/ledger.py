"""The ledger: admission, settlement, and its maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.reports import Filters


class Difference(NamedTuple):
    """A balance that differs from the sum of its rows."""

    scope: str
    spent_nanos: int
    held_nanos: int
    expected_spent_nanos: int
    expected_held_nanos: int


class Ledger(Protocol):
    """Admits requests and settles them, each in one transaction."""

    @property
    def dropped(self) -> int:
        """Number of tracking records removed to make room for newer ones."""

    async def admit(self, ask: AdmissionRequest) -> Admission:
        """Hold the maximum cost of the request.

        Raises `ProxyError`: a limit, model_not_priced, accounting_unavailable.
        """

    async def extend(self, extension: Extension) -> int:
        """Hold more for a further attempt; returns the nano-USD added. Raises `ProxyError` as `admit`."""

    def note(self, extension: Extension) -> None:
        """Record a further attempt that needs no money held. Never waits or raises."""

    def settle(self, settlement: Settlement) -> None:
        """Queue the end of a request; retried until it is written, once. Never waits or raises."""


class Upkeep(Protocol):
    """Maintenance of the ledger."""

    async def recover(self) -> int:
        """Settle rows that a crash left held; returns their number. Call before the first admission."""

    async def roll_up(self) -> int:
        """Add settled requests to the sums that reports read; returns about how many."""

    async def fold(self, before: float) -> int:
        """Fold rows older than a time into daily totals; returns their number."""


class LedgerSession(Protocol):
    """The ledger, read only. Rows are as `/spend` and `/spend/logs` show them."""

    def spend(self, group_by: Sequence[str], filters: Filters) -> dict[str, Any]:
        """Sums by any of `reports.GROUPS`."""

    def reconcile(self) -> list[Difference]:
        """Balances, and sums by hour and day, that differ from their rows; none in a sound database."""

    def inexact(self) -> list[tuple[str, int, int]]:
        """Per basis other than exact: the basis, the number of requests and their cost in nano-USD."""

    def position(self, last: int) -> int:
        """The position in the log before the `last` newest rows."""

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        """Rows after a position with their own positions, oldest first, at most `size`."""

    def log(self, request_id: str) -> dict[str, Any]:
        """One row; the caller knows that it exists."""

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        """The scopes' balances as of `now`."""
