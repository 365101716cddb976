"""Reads for people, on a connection of their own and in bounded time, so that a look delays nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama_proxy.store.errors import StoreUnavailableError, accounting_unavailable
from codellama_proxy.store.sqlite.reader import Reader, Row
from codellama_proxy.store.sqlite.writer import Writer

MAX_SEARCH_SECONDS = 2.0
"""After which a statement is stopped."""


class BoundedReads:
    """`reader` stops statements that take too long."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def __call__(self, sql: str, values: Sequence[Any]) -> list[Row]:
        """All rows of a statement, which sees every request whose response was sent.

        Raises `ProxyError` accounting_unavailable.
        """
        try:
            await self._writer.barrier()
            return await self._reader.all(sql, tuple(values))
        except StoreUnavailableError as error:
            raise accounting_unavailable() from error
