"""What belongs to an installation as a whole: the key of the configuration digest, and the last good configuration."""

from __future__ import annotations

import secrets

from codellama_proxy.store.interfaces import KeptConfiguration
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sql.stored_configurations import SQL as CONFIGURATIONS

SQL = queries.load("installation")
DIGEST_KEY = "digest_key"
KEY_BYTES = 32


def digest_key(db: PostgresSession) -> bytes:
    """The key of the configuration digest (32 bytes), created by the first process."""
    db.execute(SQL["give"], {"name": DIGEST_KEY, "value": secrets.token_bytes(KEY_BYTES)})
    found = known_digest_key(db)
    assert found is not None
    return found


def known_digest_key(db: PostgresSession) -> bytes | None:
    """The same without creating it; `None` before the first start of a server."""
    row = db.execute(SQL["value"], {"name": DIGEST_KEY}).fetchone()
    return None if row is None else bytes(row[0])


def last_good(db: PostgresSession) -> KeptConfiguration | None:
    """The configuration that the last server used; `None` if there is none."""
    row = db.execute(CONFIGURATIONS["last_good"]).fetchone()
    return None if row is None else KeptConfiguration(bytes(row[0]), row[1], row[2])
