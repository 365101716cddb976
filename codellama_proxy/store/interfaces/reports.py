"""Reads of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.store.overviews import Among, Balance, KeyUse, Measure, Recent, Sums
from codellama_proxy.store.reports import MAX_ROWS, Filters
from codellama_proxy.store.request_search import Found, Neighbours, Search


class Reports(Protocol):
    """Reads the ledger. Raises `ProxyError` accounting_unavailable. Includes everything settled before the call."""

    async def standing(self, key: Key, snapshot: Snapshot) -> tuple[ScopeState, ...]:
        """The present state of a key's scopes: always its own and its project's, others if limited."""

    async def logs(self, filters: Filters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """One page of rows as in `/spend/logs`, newest first, pages from 1; and the total number."""

    async def before(self, filters: Filters, request_id: str, size: int) -> list[dict[str, Any]] | None:
        """Rows older than a request, newest first; `None` if there is no such request."""

    async def request(self, request_id: str) -> dict[str, Any] | None:
        """One row, with its `content` if that was stored; `None` if there is none."""

    async def spend(
        self, group_by: Sequence[str], filters: Filters, page: int = 1, size: int = MAX_ROWS
    ) -> dict[str, Any]:
        """A page of sums by any of `reports.GROUPS` and `TIME_GROUPS`, as `/spend` answers.

        Raises `ProxyError` invalid_value for groups that need too many sums.
        """


class Searches(Protocol):
    """Finds requests for people, on a connection of its own, in bounded time. Raises as `Reports`."""

    async def search(self, search: Search, before: str | None, size: int) -> Found | None:
        """A page of rows as in `/spend/logs`, those before a request; `None` if there is no such request."""

    async def neighbours(self, search: Search, request_id: str) -> Neighbours:
        """The requests next to one."""

    async def among(self, search: Search, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Those of some requests that a search finds, newest first."""


class Overviews(Protocol):
    """Reads for overviews, on a connection of its own, in bounded time. Raises as `Reports`."""

    async def sums(self, group_by: Sequence[str], filters: Filters, among: Among | None = None) -> Sums:
        """Sums by any of `reports.GROUPS` and `TIME_GROUPS`: the same numbers as `Reports.spend`.

        `among`: a group of `group_by`; the total is of the same requests.
        """

    async def largest(
        self, group: str, measure: Measure, filters: Filters, size: int
    ) -> tuple[str | None, ...]:
        """The values of one of `reports.GROUPS` with the largest sums, as of a minute ago at most."""

    async def balances(self) -> list[Balance]:
        """Of every scope that ever had a budget, but users."""

    async def user_balances(self) -> list[Balance]:
        """Of the `MAX_USER_BALANCES` users who spent most."""

    async def recent(self, project: str | None, size: int) -> list[Recent]:
        """The newest requests that have ended, newest first."""

    async def known_keys(self, project: str | None) -> list[Key]:
        """The newest `MAX_KEYS` keys, newest first."""

    async def keys(self, project: str | None) -> list[KeyUse]:
        """The newest `MAX_KEYS` keys, newest first, with their last use."""

    async def since(self) -> float | None:
        """Unix seconds of the oldest request or sum; `None` for an empty ledger."""
