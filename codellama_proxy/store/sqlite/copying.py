"""A database file that is copied to or from another database. No server uses it meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql.copying import Row
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.database import Database, owned_database

BATCH_ROWS = 1000


@contextmanager
def file_side(path: Path, *, create: bool) -> Iterator[FileSide]:
    """A file, with every request settled that a crash left held; `create`: it may be missing. Raises `StoreError`.

    What is inserted is kept only if the block ends without an exception.
    """
    if not create and not path.exists():
        raise StoreError(f"there is no database {path}")
    try:
        with owned_database(path) as database:
            asyncio.run(_recover(database))
            with closing(connect(path)) as db:
                db.execute("begin")
                yield FileSide(path, db)
                db.execute("commit")
    except sqlite3.Error as error:
        raise StoreError(f"cannot use the database {path}: {error}") from error


async def _recover(database: Database) -> None:
    async with database.open() as store:
        await store.upkeep.recover()


class FileSide:
    """`copying.Side`."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.label = str(path)
        self.db = db

    def stream(self, sql: str) -> Iterator[Row]:
        return iter(self.db.execute(sql))

    def prepare(self, days: Sequence[int]) -> None:
        return None

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> int:
        if table == "outbox":  # positions by bytes
            columns, rows = (*columns, "upto"), _with_positions(rows, columns.index("body"))
        marks = ", ".join("?" * len(columns))
        sql = f"insert into {table} ({', '.join(columns)}) values ({marks})"  # noqa: S608 - our own names
        left, count = iter(rows), 0
        while batch := list(islice(left, BATCH_ROWS)):
            self.db.executemany(sql, batch)
            count += len(batch)
        return count

    def finish(self) -> None:
        return None


def _with_positions(rows: Iterable[Row], body: int) -> Iterator[Row]:
    upto = 0
    for row in rows:
        upto += len(row[body])
        yield (*row, upto)
