"""Searches requests on a read-only connection of its own, so that a look at the dashboard delays nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.request_search import Found, Neighbours, Search
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sqlite.reader import Reader, Row
from codellama_proxy.store.sqlite.writer import Writer

MAX_SEARCH_SECONDS = 2.0
"""After which a statement is stopped."""


class Searches:
    """`interfaces.Searches`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self._requests = RequestSearch(self._read)

    async def search(self, search: Search, before: str | None, size: int) -> Found | None:
        await self._catch_up()
        return await self._requests.search(search, before, size)

    async def neighbours(self, search: Search, request_id: str) -> Neighbours:
        await self._catch_up()
        return await self._requests.neighbours(search, request_id)

    async def among(self, search: Search, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        await self._catch_up()
        return await self._requests.among(search, request_ids)

    async def _catch_up(self) -> None:
        """Includes every request whose response was sent."""
        try:
            await self._writer.barrier()
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error

    async def _read(self, sql: str, values: Sequence[Any]) -> list[Row]:
        try:
            return await self._reader.all(sql, tuple(values))
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error
