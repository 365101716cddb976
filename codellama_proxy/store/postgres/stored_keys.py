"""`interfaces.Keys`, `Audit` and `UiSessions` of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from codellama_proxy.core.types import Key
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import MAX_PROJECTS, MAX_UI_SESSIONS, StoredKey, UiSession
from codellama_proxy.store.key_fields import KeyChange, not_found
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql import audit
from codellama_proxy.store.sql.keys import SQL, from_row
from codellama_proxy.store.sql.queries import load
from codellama_proxy.store.write_queue import WriteQueue

T = TypeVar("T")

MAX_BEAT_AGE_SECONDS = 0.7
"""Age of the version of keys above which it says nothing; a transaction that waits for locks has none."""


class StoredKeys:
    """Keys and their audit. Changes run on the connections for reads: they need no order with the ledger."""

    watch_seconds = 0.25

    def __init__(
        self,
        connections: Connections,
        engine: PostgresEngine,
        healthy: Callable[[], bool],
    ) -> None:
        self._connections = connections
        self._engine = engine
        self._healthy = healthy

    async def by_hash(self, secret_hash: str) -> StoredKey | None:
        rows = await self._connections.all(SQL["card_by_hash"], {"hash": secret_hash})
        return StoredKey(from_row(rows[0]), rows[0][10]) if rows else None

    async def get(self, key_id: str) -> Key:
        rows = await self._connections.all(SQL["card_by_id"], {"key_id": key_id})
        if not rows:
            raise not_found()
        return from_row(rows[0])

    async def page(self, page: int, size: int, project: str | None) -> tuple[tuple[Key, ...], int]:
        wanted = {"project": project, "size": size, "skip": (page - 1) * size}
        rows = await self._connections.all(SQL["page_of_cards"], wanted)
        total = await self._connections.all(SQL["count_keys"], {"project": project})
        return tuple(from_row(row) for row in rows), int(total[0][0])

    async def some(self, key_ids: Sequence[str]) -> dict[str, Key]:
        sql = SQL["some_cards"].format(ids=", ".join("?" * len(key_ids)))
        keys = [from_row(row) for row in await self._connections.all(sql, tuple(key_ids))]
        return {key.key_id: key for key in keys}

    async def projects(self) -> list[str]:
        rows = await self._connections.all(SQL["projects"], {"most": MAX_PROJECTS})
        return [project for (project,) in rows]

    async def create(
        self, change: KeyChange, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        return await self._change(lambda db: audit.create(db, actor, change, now, form))

    async def update(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key:
        return await self._change(lambda db: audit.update(db, actor, key_id, change, now))

    async def block(self, key_id: str, blocked: bool, actor: str, now: float) -> Key:
        return await self._change(lambda db: audit.block(db, actor, key_id, blocked, now))

    async def rotate(
        self, key_id: str, overlap: float, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        return await self._change(lambda db: audit.rotate(db, actor, key_id, overlap, now, form))

    async def delete(self, key_id: str, actor: str, now: float) -> Key:
        return await self._change(lambda db: audit.delete(db, actor, key_id, now))

    async def _change(self, change: Callable[[PostgresSession], T]) -> T:
        return await self._connections.change(change)

    async def version(self) -> int:
        """Comes with every beat, so it needs no query. Raises `StoreUnavailableError` if beats fail."""
        connection, version, at = self._engine.keys_version
        if not self._healthy() or time.monotonic() - at > MAX_BEAT_AGE_SECONDS:
            raise StoreUnavailableError("the database cannot be used at the moment")
        return (connection << 40) + version

    async def changes(self, filters: AuditFilters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        sql, values = audit.page_query(filters, page, size)
        rows = await self._connections.all(sql, values)
        sql, values = audit.count_query(filters)
        ((total,),) = await self._connections.all(sql, values)
        return [audit.entry(row) for row in rows], int(total)


class UiSessions:
    """Sign-ins to the dashboard."""

    def __init__(self, connections: Connections, queue: WriteQueue[PostgresSession]) -> None:
        self._connections = connections
        self._queue = queue
        self._sql = load("ui_sessions")

    async def add(self, id_hash: str, session: UiSession) -> None:
        await self._write("add", {**session._asdict(), "secure": int(session.secure), "id_hash": id_hash})
        await self._write("trim", {"credential": session.secret_hash or "", "most": MAX_UI_SESSIONS})

    async def find(self, id_hash: str) -> UiSession | None:
        rows = await self._connections.all(self._sql["find"], {"id_hash": id_hash})
        if not rows:
            return None
        secret_hash, master_mark, secure, created_at, seen_at = rows[0]
        return UiSession(secret_hash, master_mark, bool(secure), created_at, seen_at)

    def seen(self, id_hash: str, at: float) -> None:
        with suppress(StoreUnavailableError):  # closed: the session counts as unused since the time before
            self._queue.post(lambda db: db.execute(self._sql["seen"], {"id_hash": id_hash, "seen_at": at}))

    async def end(self, id_hash: str) -> None:
        await self._write("end", {"id_hash": id_hash})

    async def forget(self, *, seen_before: float, created_before: float) -> None:
        await self._write("forget", {"seen_before": seen_before, "created_before": created_before})

    async def _write(self, name: str, values: dict[str, Any]) -> None:
        await self._connections.change(lambda db: db.execute(self._sql[name], values).rowcount)
