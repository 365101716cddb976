"""Stores the text of the last good configuration, for a start with an invalid file, and the history of reloads."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import MAX_RELOADS, KeptConfiguration, Reload
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sqlite.connection import connect_to_read

SQL = queries.load("configurations")


def keep(db: sqlite3.Connection, kept: KeptConfiguration | None) -> None:
    """Replace the kept configuration; `None` removes it."""
    if kept is None:
        db.execute(SQL["forget"])
        return
    db.execute(SQL["keep"], {"digest": kept.digest, "text": kept.text, "loaded_at": kept.loaded_at})


def record(db: queries.Session, reload: Reload) -> None:
    """Add an entry to the history of reloads."""
    lines = orjson.dumps(reload.lines).decode()
    db.execute(
        SQL["record_reload"],
        {"at": reload.at, "digest": reload.digest, "ok": int(reload.ok), "lines": lines},
    )
    db.execute(SQL["forget_reloads"], {"kept": MAX_RELOADS})


def reload_of(row: Sequence[Any]) -> Reload:
    """An entry, from a row of the statement `reloads`."""
    at, digest, ok, lines = row
    return Reload(at, digest, bool(ok), tuple(orjson.loads(lines)))


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
