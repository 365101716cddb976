"""The last good configuration of a file, for a start with an invalid configuration."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import KeptConfiguration
from codellama_proxy.store.sql.stored_configurations import SQL
from codellama_proxy.store.sqlite.connection import connect_to_read


def last_good(path: Path) -> KeptConfiguration | None:
    """The configuration that the last server used; `None` if there is none. Raises `StoreError`."""
    if not path.exists():
        return None
    try:
        with closing(connect_to_read(path)) as db:
            row = db.execute(SQL["last_good"]).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # the database of an older version
            return None
        raise StoreError(f"cannot read the database {path}: {error}") from error
    except sqlite3.Error as error:
        raise StoreError(f"cannot read the database {path}: {error}") from error
    return None if row is None else KeptConfiguration(*row)
