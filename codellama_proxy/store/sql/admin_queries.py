"""Keys and reports of commands, used synchronously on one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama_proxy.core.types import Key
from codellama_proxy.store import reports
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sql import audit, keys, log_queries
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql.queries import Session

MAX_KEYS = 1 << 62
"""For listing all keys."""


class AdminQueries:
    """What `interfaces.AdminSession` has on every database system; the rest is in subclasses."""

    def __init__(self, db: Session) -> None:
        self._db = db

    # --- keys --------------------------------------------------------------------------------------------------

    def key(self, key_id: str) -> Key:
        return keys.get(self._db, key_id)

    def keys(self, project: str | None) -> list[Key]:
        wanted = {"project": project, "size": MAX_KEYS, "skip": 0}
        return [keys.from_row(row) for row in self._db.execute(keys.SQL["page_of_cards"], wanted)]

    def keys_by_prefix(self, prefix: str) -> list[Key]:
        rows = self._db.execute(keys.SQL["cards_by_prefix"], {"prefix": prefix}).fetchall()
        return [keys.from_row(row) for row in rows]

    def create_key(self, change: KeyChange, actor: str, now: float) -> tuple[Key, str]:
        return audit.create(self._db, actor, change, now)

    def update_key(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key:
        return audit.update(self._db, actor, key_id, change, now)

    def block_key(self, key_id: str, blocked: bool, actor: str, now: float) -> Key:
        return audit.block(self._db, actor, key_id, blocked, now)

    def rotate_key(self, key_id: str, overlap: float, actor: str, now: float) -> tuple[Key, str]:
        return audit.rotate(self._db, actor, key_id, overlap, now)

    def delete_key(self, key_id: str, actor: str, now: float) -> Key:
        return audit.delete(self._db, actor, key_id, now)

    def key_changes(self, filters: AuditFilters, size: int) -> list[dict[str, Any]]:
        sql, values = audit.page_query(filters, 1, size)
        return [audit.entry(row) for row in self._db.execute(sql, values)]

    # --- the ledger --------------------------------------------------------------------------------------------

    def spend(self, group_by: Sequence[str], filters: reports.Filters) -> dict[str, Any]:
        sql, values = queries.spend_query(group_by, filters)
        return reports.summary(group_by, self._db.execute(sql, values).fetchall())

    def inexact(self) -> list[tuple[str, int, int]]:
        return self._db.execute(queries.SQL["uncertain"]).fetchall()

    def position(self, last: int) -> int:
        (position,) = self._db.execute(queries.SQL["before_last"], (last,)).fetchone()
        return int(position)

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        sql, values = log_queries.after_query(position, size)
        return [(row[0], reports.log_row(row[1:])) for row in self._db.execute(sql, values).fetchall()]

    def log(self, request_id: str) -> dict[str, Any]:
        sql, values = log_queries.request_query(request_id)
        row = self._db.execute(sql, values).fetchone()
        return reports.log_row(row[: len(reports.LOG_COLUMNS)])
