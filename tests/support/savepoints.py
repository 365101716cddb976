"""Changes of a database that a test takes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rolled_back(db: sqlite3.Connection) -> Iterator[None]:
    """Takes back what is written inside."""
    db.execute("savepoint example")
    try:
        yield
    finally:
        db.execute("rollback to example")
        db.execute("release example")
