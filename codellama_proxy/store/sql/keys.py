"""Reads and writes keys on a connection, inside the caller's transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
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
from codellama_proxy.store.sql import queries

SQL = queries.load("keys")

INHERITED = limits_of({})
"""The limits of a key that has none of its own; most keys share them."""
_BASE62 = string.digits + string.ascii_letters


def digest(secret: str) -> str:
    """The stored hash of a secret: hexadecimal SHA-256. A fast hash is safe for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(db: queries.Session, change: KeyChange, now: float) -> tuple[Key, str]:
    """Create a key; returns it and its secret, which is not stored."""
    key = apply(Key("key_" + _random(12), DEFAULT_PROJECT, created_at=now), change, now)
    db.execute(SQL["insert_key"], _parameters(key))
    return _with_secret(db, key)


def update(db: queries.Session, key_id: str, change: KeyChange, now: float) -> Key:
    """Change a key; returns the new state."""
    return _save(db, apply(get(db, key_id), change, now))


def block(db: queries.Session, key_id: str, blocked: bool) -> Key:
    """Block or unblock a key."""
    return _save(db, replace(get(db, key_id), blocked=blocked))


def rotate(db: queries.Session, key_id: str, overlap: float, now: float) -> tuple[Key, str]:
    """Create a new secret for a key; the previous one expires in `overlap` seconds."""
    key = get(db, key_id)
    db.execute(SQL["delete_rotated_secrets"], {"key_id": key_id})
    if overlap:
        db.execute(SQL["end_current_secret"], {"key_id": key_id, "expires_at": now + overlap})
    else:  # deleted, not expired, so that a clock set back cannot make it valid again
        db.execute(SQL["delete_current_secret"], {"key_id": key_id})
    return _with_secret(db, key)


def delete(db: queries.Session, key_id: str) -> Key:
    """Delete a key and return it. Its spending stays in the ledger."""
    key = get(db, key_id)
    db.execute(SQL["delete_key"], {"key_id": key_id})
    return key


def get(db: queries.Session, key_id: str) -> Key:
    """The key. Raises `ProxyError` 404 if there is none."""
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
        limits=INHERITED if limits == "{}" else limits_of(json.loads(limits)),
        metadata={} if metadata == "{}" else json.loads(metadata),
    )


def _with_secret(db: queries.Session, key: Key) -> tuple[Key, str]:
    secret = SECRET_START + _random(SECRET_LENGTH - len(SECRET_START))
    prefix = secret[:PREFIX_LENGTH]
    db.execute(SQL["insert_secret"], {"hash": digest(secret), "key_id": key.key_id, "prefix": prefix})
    return replace(key, prefix=prefix), secret


def _save(db: queries.Session, key: Key) -> Key:
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
