"""Stores the text of the last good configuration, for a start with an invalid file, and the history of reloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from codellama_proxy.store.interfaces import MAX_RELOADS, KeptConfiguration, Reload
from codellama_proxy.store.sql import queries

SQL = queries.load("configurations")


def keep(db: queries.Session, kept: KeptConfiguration | None) -> None:
    """Replace the kept configuration; `None` removes it."""
    if kept is None:
        db.execute(SQL["forget"])
        return
    db.execute(SQL["keep"], {"digest": kept.digest, "text": kept.text, "loaded_at": kept.loaded_at})


SAME_RELOAD_SECONDS = 2.0
"""Within which an equal entry is that of another process of the same installation."""


def record(db: queries.Session, reload: Reload) -> None:
    """Add an entry to the history of reloads."""
    lines = orjson.dumps(reload.lines).decode()
    db.execute(
        SQL["record_reload"],
        {
            "at": reload.at,
            "digest": reload.digest,
            "ok": int(reload.ok),
            "lines": lines,
            "since": reload.at - SAME_RELOAD_SECONDS,
        },
    )
    db.execute(SQL["forget_reloads"], {"kept": MAX_RELOADS})


def reload_of(row: Sequence[Any]) -> Reload:
    """An entry, from a row of the statement `reloads`."""
    at, digest, ok, lines = row
    return Reload(at, digest, bool(ok), tuple(orjson.loads(lines)))
