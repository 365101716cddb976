"""Keys as rows: what the server and the command line do on a connection, inside a transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from codellama_proxy.core.types import Key
from codellama_proxy.store.key_fields import (
    DEFAULT_PROJECT,
    PREFIX_LENGTH,
    SECRET_LENGTH,
    SECRET_START,
    KeyChange,
    apply,
    given_limits,
    limits_of,
    not_found,
)
from codellama_proxy.store.sqlite import queries

SQL = queries.load("keys")

_BASE62 = string.digits + string.ascii_letters


def digest(secret: str) -> str:
    """What is stored of a secret. It has 256 random bits, so a fast hash cannot be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(db: sqlite3.Connection, change: KeyChange, now: float) -> tuple[Key, str]:
    """A new key and its secret, which cannot be read again."""
    key = apply(Key("key_" + _random(12), DEFAULT_PROJECT, created_at=now), change, now)
    db.execute(SQL["insert_key"], _parameters(key))
    return _with_secret(db, key)


def update(db: sqlite3.Connection, key_id: str, change: KeyChange, now: float) -> Key:
    """The key with the change made."""
    return _save(db, apply(get(db, key_id), change, now))


def block(db: sqlite3.Connection, key_id: str, blocked: bool) -> Key:
    """Refuse the key from now on, or take it back."""
    return _save(db, replace(get(db, key_id), blocked=blocked))


def rotate(db: sqlite3.Connection, key_id: str, overlap: float, now: float) -> tuple[Key, str]:
    """A new secret for the same key; the one before it ends `overlap` seconds from now."""
    key = get(db, key_id)
    db.execute(SQL["delete_rotated_secrets"], {"key_id": key_id})
    if overlap:
        db.execute(SQL["end_current_secret"], {"key_id": key_id, "expires_at": now + overlap})
    else:  # not merely ended: no clock that is set back may revive it
        db.execute(SQL["delete_current_secret"], {"key_id": key_id})
    return _with_secret(db, key)


def delete(db: sqlite3.Connection, key_id: str) -> Key:
    """The key that was there. Its spending stays in the ledger."""
    key = get(db, key_id)
    db.execute(SQL["delete_key"], {"key_id": key_id})
    return key


def get(db: sqlite3.Connection, key_id: str) -> Key:
    row = db.execute(SQL["card_by_id"], {"key_id": key_id}).fetchone()
    if row is None:
        raise not_found()
    return from_row(row)


def from_row(row: Sequence[Any]) -> Key:
    """A key from a row of `key_cards`."""
    key_id, project, name, prefix, created_at, expires_at, blocked, models, limits, metadata = row[:10]
    return Key(
        key_id=key_id,
        project=project,
        name=name,
        prefix=prefix,
        created_at=created_at,
        expires_at=expires_at,
        blocked=bool(blocked),
        models=None if models is None else tuple(json.loads(models)),
        limits=limits_of(json.loads(limits)),
        metadata=json.loads(metadata),
    )


def _with_secret(db: sqlite3.Connection, key: Key) -> tuple[Key, str]:
    secret = SECRET_START + _random(SECRET_LENGTH - len(SECRET_START))
    prefix = secret[:PREFIX_LENGTH]
    db.execute(SQL["insert_secret"], {"hash": digest(secret), "key_id": key.key_id, "prefix": prefix})
    return replace(key, prefix=prefix), secret


def _save(db: sqlite3.Connection, key: Key) -> Key:
    db.execute(SQL["save_key"], _parameters(key))
    return key


def _parameters(key: Key) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "project": key.project,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "blocked": int(key.blocked),
        "models": None if key.models is None else json.dumps(key.models),
        "limits": json.dumps(given_limits(key.limits)),
        "metadata": json.dumps(dict(key.metadata), ensure_ascii=False),
    }


def _random(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))
