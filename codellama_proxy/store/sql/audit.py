"""Changes keys and records each change in the same transaction: actor, time, key and fields, never a secret.

The server and the command line change keys only through these functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.clock import iso_ms
from codellama_proxy.core.types import Key
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange, shown
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sql.used_forms import use_once

SQL = queries.load("audit")
_NOT_RECORDED = {"key_id", "key_alias", "created_at"}
_FIELDS = ("created_at", "actor", "action", "key_id", "project", "changes")

Changes = dict[str, list[Any]]


# --- changing ------------------------------------------------------------------------------------------------


def create(
    db: queries.Session, actor: str, change: KeyChange, now: float, form: str | None = None
) -> tuple[Key, str]:
    """As `key_rows.create`. Raises `ProxyError` 400 if the form with this token was used before."""
    use_once(db, form, now)
    key, secret = key_rows.create(db, change, now)
    _record(db, actor, "create", key, _differences({}, _audited_fields(key)), now)
    return key, secret


def update(db: queries.Session, actor: str, key_id: str, change: KeyChange, now: float) -> Key:
    """As `key_rows.update`."""
    before = key_rows.get(db, key_id)
    key = key_rows.update(db, key_id, change, now)
    _record(db, actor, "update", key, _differences(_audited_fields(before), _audited_fields(key)), now)
    return key


def block(db: queries.Session, actor: str, key_id: str, blocked: bool, now: float) -> Key:
    """As `key_rows.block`."""
    before = key_rows.get(db, key_id)
    key = key_rows.block(db, key_id, blocked)
    action = "block" if blocked else "unblock"
    _record(db, actor, action, key, _differences(_audited_fields(before), _audited_fields(key)), now)
    return key


def rotate(
    db: queries.Session, actor: str, key_id: str, overlap: float, now: float, form: str | None = None
) -> tuple[Key, str]:
    """As `key_rows.rotate`; only the visible prefixes of the secrets are recorded. `form`: as in `create`."""
    use_once(db, form, now)
    before = key_rows.get(db, key_id)
    key, secret = key_rows.rotate(db, key_id, overlap, now)
    changes = _differences(_audited_fields(before), _audited_fields(key))
    _record(db, actor, "rotate", key, {**changes, "overlap_seconds": [None, overlap]}, now)
    return key, secret


def delete(db: queries.Session, actor: str, key_id: str, now: float) -> Key:
    """As `key_rows.delete`."""
    key = key_rows.delete(db, key_id)
    _record(db, actor, "delete", key, _differences(_audited_fields(key), {}), now)
    return key


def _audited_fields(key: Key) -> dict[str, Any]:
    return {field: value for field, value in shown(key).items() if field not in _NOT_RECORDED}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    pairs = {field: [before.get(field), after.get(field)] for field in {**before, **after}}
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def _record(db: queries.Session, actor: str, action: str, key: Key, changes: Changes, now: float) -> None:
    row = {
        "created_at": now,
        "actor": actor,
        "action": action,
        "key_id": key.key_id,
        "project": key.project,
        "changes": json.dumps(changes, ensure_ascii=False),
    }
    db.execute(SQL["record"], row)


# --- reading -------------------------------------------------------------------------------------------------


def page_query(filters: AuditFilters, page: int, size: int) -> queries.Query:
    where, values = _where(filters)
    return SQL["page"].format(where=where), [*values, size, (page - 1) * size]


def count_query(filters: AuditFilters) -> queries.Query:
    where, values = _where(filters)
    return SQL["count"].format(where=where), values


def entry(row: Sequence[Any]) -> dict[str, Any]:
    """A change in the format of `/audit`."""
    shown = dict(zip(_FIELDS, row, strict=True))
    return {**shown, "created_at": iso_ms(shown["created_at"]), "changes": json.loads(shown["changes"])}


def _where(filters: AuditFilters) -> queries.Query:
    return queries.where(
        ("project = ?", filters.project),
        ("key_id = ?", filters.key_id),
        ("action = ?", filters.action),
        ("actor = ?", filters.actor),
        ("created_at >= ?", filters.start),
        ("created_at < ?", filters.end),
    )
