"""Values that belong to one installation, stored in its database."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sqlite.connection import connect

SQL = queries.load("installation")
DIGEST_KEY = "digest_key"
KEY_BYTES = 32


def digest_key(path: Path) -> bytes:
    """The key of the configuration digest (32 bytes), created at the first start. Raises `StoreError`."""
    try:
        with closing(connect(path)) as db:
            db.execute(SQL["give"], {"name": DIGEST_KEY, "value": secrets.token_bytes(KEY_BYTES)})
            found = known_digest_key(db)
    except sqlite3.Error as error:
        raise StoreError(f"cannot use the database {path}: {error}") from error
    assert found is not None
    return found


def known_digest_key(db: sqlite3.Connection) -> bytes | None:
    """The same without creating it; `None` before the first server start of this version."""
    try:
        row = db.execute(SQL["value"], {"name": DIGEST_KEY}).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return None if row is None else bytes(row[0])
