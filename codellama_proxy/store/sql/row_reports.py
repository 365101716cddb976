"""Reports on requests, from SQL that both database systems run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from codellama_proxy.store import reports
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql import log_queries
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql.queries import Query
from codellama_proxy.store.sql.report_sizes import max_sums, size_queries, too_many_groups


class RowReports(ABC):
    """Every method includes the requests whose response was sent before the call, as `_read` and `_sum` promise."""

    @abstractmethod
    async def _read(self, query: Query) -> list[tuple[Any, ...]]:
        """The result of a query that reads few rows. Raises `ProxyError` accounting_unavailable."""

    @abstractmethod
    async def _sum(self, query: Query) -> list[tuple[Any, ...]]:
        """As `_read`, of a query that reads many rows."""

    async def _in_sums(self) -> int:
        """The last sequence that is in the sums, or one before it."""
        return 0

    async def logs(self, filters: Filters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """One page of rows, newest first, and the total number."""
        rows = await self._read(log_queries.logs_query(filters, page, size))
        (total,) = (await self._sum(log_queries.count_query(filters, await self._in_sums())))[0]
        return [reports.log_row(row) for row in rows], total

    async def request(self, request_id: str) -> dict[str, Any] | None:
        """One row, with its `content` if that was stored; `None` if there is none."""
        rows = await self._read(log_queries.request_query(request_id))
        return reports.whole_row(rows[0]) if rows else None

    async def before(self, filters: Filters, request_id: str, size: int) -> list[dict[str, Any]] | None:
        """Rows older than a request, newest first; `None` if there is no such request."""
        found = await self._read((queries.SQL["seq_of"], [request_id]))
        if not found:
            return None
        rows = await self._read(log_queries.before_query(filters, found[0][0], size))
        return [reports.log_row(row) for row in rows]

    async def spend(
        self, group_by: Sequence[str], filters: Filters, page: int = 1, size: int = reports.MAX_ROWS
    ) -> dict[str, Any]:
        """Sums over rows and daily totals, as in `/spend`: a page of groups, and the sums over all groups.

        Raises `ProxyError` invalid_value if that takes more than `max_sums`.
        """
        left = max_sums(group_by, filters)
        for query in size_queries(group_by, filters):
            left -= (await self._sum(query))[0][0]
            if left < 0:
                raise too_many_groups()
        rows = await self._sum(
            queries.spend_page_query(group_by, filters, page, size, after=await self._in_sums())
        )
        return reports.page_of_groups(group_by, rows)
