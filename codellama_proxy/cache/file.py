"""The statements of the cache's SQLite file; no state. The file may be deleted at any time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from codellama_proxy.cache import vectors
from codellama_proxy.cache.key import CachedAnswer
from codellama_proxy.cache.vectors import Vector
from codellama_proxy.openai_format.completion import whole_event
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sqlite.connection import CACHE, connect
from codellama_proxy.store.sqlite.many_rows import in_batches, with_rows

FORMAT = 3
"""Version of the schema and of the keys; a file with another version is deleted and created again."""
BUSY_MS = 100
PURGE_BATCH_ROWS = 500
"""Rows that `purge` deletes in one statement, which delays other writes."""

SQL = queries.load("answers", "codellama_proxy.cache")


class Row(NamedTuple):
    key: bytes
    scope: str
    project: str
    model: str
    answer: CachedAnswer


def beside(database: Path) -> Path:
    """The path of a database's cache: `proxy-cache.db` beside `proxy.db`."""
    return database.with_name(f"{database.stem}-cache{database.suffix}")


def open_file(path: Path) -> sqlite3.Connection:
    """A connection; creates the file or replaces an unusable one. Raises `sqlite3.Error`; `StoreError` if not ours."""
    db = _open_current(path)
    if db is None:
        remove(path)
        db = _open_current(path)
    if db is None:
        raise sqlite3.OperationalError("the file cannot be created again")
    return db


@contextmanager
def existing(database: Path) -> Iterator[sqlite3.Connection | None]:
    """The cache beside a database, or `None`. Never repairs the file, because a server may be using it.

    Raises `StoreError`, also for what SQLite raises inside the `with` block.
    """
    path = beside(database)
    if not os.path.lexists(path):
        yield None
        return
    try:
        with closing(connect(path, kind=CACHE)) as db:
            _check_schema(db)
            yield db
    except sqlite3.Error as error:
        raise StoreError(f"cannot use the cache {path}: {error}") from error


def _open_current(path: Path) -> sqlite3.Connection | None:
    """A connection; `None` if the file is damaged or has another format."""
    try:
        db = connect(path, create=True, busy_ms=BUSY_MS, kind=CACHE)
    except sqlite3.DatabaseError as error:
        if kind_of(error) == "damaged":
            return None
        raise
    try:
        db.execute("pragma wal_autocheckpoint=1000")  # the store's checkpoints do not include this file
        (found,) = db.execute("pragma user_version").fetchone()
        tables = db.execute("select count(*) from sqlite_schema").fetchone()[0]
        if found == FORMAT and tables:
            _check_schema(db)
            return db
        if not tables:
            _create(db)
            return db
    except sqlite3.DatabaseError as error:
        db.close()
        if kind_of(error) == "damaged":
            return None
        raise
    db.close()
    return None


def _check_schema(db: sqlite3.Connection) -> None:
    """Raises `sqlite3.Error` if a table or a column is missing."""
    db.execute(SQL["find"], (0, b"")).fetchall()
    db.execute(SQL["signs"], (b"", 0, 0)).fetchall()
    db.execute(SQL["numbers"], (b"",)).fetchall()


def _create(db: sqlite3.Connection) -> None:
    schema = (files("codellama_proxy.cache") / "answers_schema.sql").read_text("utf-8")
    db.executescript(f"begin immediate; {schema}; pragma user_version = {FORMAT:d}; commit;")


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


def kind_of(error: Exception) -> str:
    """`damaged`: the file must be deleted; `unavailable`: it may work again later."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    broken = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA}
    return "damaged" if code in broken else "unavailable"


def version(db: sqlite3.Connection) -> int:
    """A number that changes when another process writes to the file."""
    return int(db.execute("pragma data_version").fetchone()[0])


# --- rows ----------------------------------------------------------------------------------------------------


def find(db: sqlite3.Connection, answer_id: int, key: bytes, scope: str) -> CachedAnswer | None:
    """The answer with this ID and key, or `None`. Raises `ValueError` if its row is invalid."""
    row = db.execute(SQL["find"], (answer_id, key)).fetchone()
    if row is None:
        return None
    owner, deployment, dropped, body, created_at, expires_at = row
    if owner != scope:
        raise ValueError("a row of another scope")
    names = orjson.loads(dropped)
    if not isinstance(names, list):
        raise ValueError("not a list of names")
    event = whole_event(bytes(body))
    return CachedAnswer(event, deployment, tuple(map(str, names)), created_at, expires_at)


def put(db: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Inserts answers, and returns the ID of the first; the others follow.

    A statement for many, because each one hands over the interpreter.
    """
    first: int = db.execute(SQL["next"]).fetchone()[0]
    at = first
    for some in in_batches(rows):
        values = chain.from_iterable([_columns(answer_id, row) for answer_id, row in enumerate(some, at)])
        db.execute(with_rows(SQL["put"], len(some), 10), tuple(values))
        at += len(some)
    return first


def _columns(answer_id: int, row: Row) -> tuple[Any, ...]:
    key, scope, project, model, answer = row
    event, deployment, dropped, created_at, expires_at, _ = answer
    names = orjson.dumps(dropped).decode() if dropped else "[]"
    return answer_id, key, scope, project, model, deployment, names, event.body, created_at, expires_at


def drop(db: sqlite3.Connection, answer_ids: Sequence[int]) -> None:
    """Deletes the answers with these IDs."""
    for some in in_batches(answer_ids):
        db.execute(with_rows(SQL["drop"], len(some), 1), tuple(some))


def keys(db: sqlite3.Connection) -> dict[bytes, int]:
    """All keys and the IDs of their answers, the oldest first."""
    return dict(db.execute(SQL["keys"]))


def drop_expired(db: sqlite3.Connection, now: float, most: int) -> Sequence[bytes]:
    return [key for (key,) in db.execute(SQL["expired"], (now, most)).fetchall()]


MAX_COMPARED_VECTORS = 5000
"""Vectors compared for one request: the newest of its bucket."""


def put_vector(db: sqlite3.Connection, answer_id: int, key: bytes, bucket: bytes, vector: Vector) -> None:
    """Stores the vector of an answer if the answer itself is stored."""
    db.execute(SQL["put_vector"], (bucket, vector.signs, vector.numbers, answer_id, key))


def nearest(db: sqlite3.Connection, bucket: bytes, vector: Vector, now: float) -> tuple[bytes, float] | None:
    """The key of the most similar answer in a bucket, and its cosine similarity; `None` if the bucket is empty."""
    signs = db.execute(SQL["signs"], (bucket, now, MAX_COMPARED_VECTORS)).fetchall()
    best: tuple[bytes, float] | None = None
    for key in vectors.shortlist(vector.signs, signs):
        row = db.execute(SQL["numbers"], (key,)).fetchone()
        found = vectors.similarity(vector, row[0]) if row is not None else 0.0  # 0.0: purged in the meantime
        if best is None or found > best[1]:
            best = (key, found)
    return best


def stats(db: sqlite3.Connection, project: str | None, model: str | None) -> list[tuple[Any, ...]]:
    return db.execute(SQL["stats"], {"project": project, "model": model}).fetchall()


def purge(db: sqlite3.Connection, project: str | None, model: str | None) -> int:
    """Deletes matching answers in small batches, so that a server's writes are not delayed; returns their number.

    Changes the `version` for other processes, whatever that number is: they may have answers that are not in the file.
    """
    deleted = 0
    wanted = {"project": project, "model": model, "most": PURGE_BATCH_ROWS}
    while count := db.execute(SQL["purge"], wanted).rowcount:
        deleted += count
    db.execute(f"pragma user_version = {FORMAT:d}")
    return deleted
