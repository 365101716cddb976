"""`interfaces.Keys` and `interfaces.Audit` of the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama_proxy.core.types import Key
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import MAX_PROJECTS, StoredKey
from codellama_proxy.store.key_fields import KeyChange, not_found
from codellama_proxy.store.sql import audit
from codellama_proxy.store.sql.keys import SQL, from_row
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer


class StoredKeys:
    """Keys and their audit. `reports`: a separate reader for slow queries, so that lookups do not wait for them."""

    watch_seconds = 0.5

    def __init__(self, writer: Writer, reader: Reader, reports: Reader | None = None) -> None:
        self._writer = writer
        self._reader = reader
        self._reports = reports or reader

    async def by_hash(self, secret_hash: str) -> StoredKey | None:
        wanted = {"hash": secret_hash}
        try:
            row = self._reader.at_once(SQL["card_by_hash"], wanted)
        except StoreUnavailableError:  # possibly locked; the other connection waits for the lock
            row = await self._reader.one(SQL["card_by_hash"], wanted)
        return None if row is None else StoredKey(from_row(row), row[10])

    async def get(self, key_id: str) -> Key:
        row = await self._reader.one(SQL["card_by_id"], {"key_id": key_id})
        if row is None:
            raise not_found()
        return from_row(row)

    async def page(self, page: int, size: int, project: str | None) -> tuple[tuple[Key, ...], int]:
        wanted = {"project": project, "size": size, "skip": (page - 1) * size}
        rows = await self._reports.all(SQL["page_of_cards"], wanted)
        total = await self._reports.one(SQL["count_keys"], {"project": project})
        return tuple(from_row(row) for row in rows), int(total[0]) if total else 0

    async def some(self, key_ids: Sequence[str]) -> dict[str, Key]:
        sql = SQL["some_cards"].format(ids=", ".join("?" * len(key_ids)))
        keys = [from_row(row) for row in await self._reports.all(sql, tuple(key_ids))]
        return {key.key_id: key for key in keys}

    async def projects(self) -> list[str]:
        rows = await self._reports.all(SQL["projects"], {"most": MAX_PROJECTS})
        return [project for (project,) in rows]

    async def create(
        self, change: KeyChange, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        return await self._writer.run(lambda db: audit.create(db, actor, change, now, form))

    async def update(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key:
        return await self._writer.run(lambda db: audit.update(db, actor, key_id, change, now))

    async def block(self, key_id: str, blocked: bool, actor: str, now: float) -> Key:
        return await self._writer.run(lambda db: audit.block(db, actor, key_id, blocked, now))

    async def rotate(
        self, key_id: str, overlap: float, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        return await self._writer.run(lambda db: audit.rotate(db, actor, key_id, overlap, now, form))

    async def delete(self, key_id: str, actor: str, now: float) -> Key:
        return await self._writer.run(lambda db: audit.delete(db, actor, key_id, now))

    async def version(self) -> int:
        return await self._writer.data_version()

    async def changes(self, filters: AuditFilters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        sql, values = audit.page_query(filters, page, size)
        rows = await self._reports.all(sql, tuple(values))
        sql, values = audit.count_query(filters)
        total = await self._reports.one(sql, tuple(values))
        return [audit.entry(row) for row in rows], int(total[0]) if total else 0
