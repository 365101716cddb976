"""What a proxy of the tests keeps on disk or on a database server, read past the proxy."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.processes import until
from tests.support.proxy_process import Proxy

DEAD_WITHIN_SECONDS = 60.0
"""A process that stays on a database server settles requests of a dead one after 10 s; machines are loaded."""


def on_server(database: Path | str) -> bool:
    return isinstance(database, str)


def kept(proxy: Proxy, *patterns: str) -> dict[str, bytes]:
    """Files beside proxy.yaml that match, by name, and the rows of all tables of a database server."""
    found = {path.name: path for pattern in patterns for path in proxy.config_path.parent.glob(pattern)}
    files = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    if isinstance(proxy.database, str):
        return {**files, **_tables(proxy.database)}
    assert files
    return files


def _tables(address: str) -> dict[str, bytes]:
    with psycopg.connect(address) as db:
        listed = "select table_name from information_schema.tables where table_schema = 'public'"
        names = [name for (name,) in db.execute(listed)]
        assert names
        return {name: b"\n".join(_bytes(row) for row in _rows(db, name)) for name in names}


def _rows(db: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    return db.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall()


def _bytes(row: tuple[Any, ...]) -> bytes:
    return b"\t".join(bytes(one) if isinstance(one, bytes | memoryview) else str(one).encode() for one in row)


def query(database: Path | str, statement: str) -> list[tuple[Any, ...]]:
    """The rows a statement without parameters returns on either system, in a transaction of its own."""
    if isinstance(database, str):
        with psycopg.connect(database) as server:
            answer = server.execute(statement.encode())
            return answer.fetchall() if answer.description else []
    with closing(sqlite3.connect(database)) as file, file:
        return file.execute(statement).fetchall()


def rows_after_a_kill(proxy: Proxy) -> list[dict[str, Any]]:
    """Rows of the request log once none is held: a start settles them in a file, a living process on a server."""

    def settled() -> list[dict[str, Any]]:
        rows = proxy.rows()
        return [] if any(row["status"] == "held" for row in rows) else rows

    return until(
        settled, "no request is held", within=DEAD_WITHIN_SECONDS if on_server(proxy.database) else 0
    )
