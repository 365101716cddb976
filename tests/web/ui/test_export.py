"""Exports read no more than their clients take."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from codellama_proxy.store.request_search import Search
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sqlite.migrations import migrate, shipped
from codellama_proxy.web.ui.pages.export import BATCH_ROWS, exported
from codellama_proxy.web.ui.request_filters import Asked
from tests.support.ledger_fixtures import admit_row, ask

BATCHES = 3


@pytest.fixture(scope="module")
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as found:
        migrate(found, shipped())
        found.execute("begin")
        for _ in range(BATCHES * BATCH_ROWS):
            admit_row(found, ask())
        found.execute("commit")
        yield found


def download(db: sqlite3.Connection, leaves_after: int | None) -> tuple[list[int], list[int]]:
    """The lines of each part, and how many statements were read before it."""
    statements, lines, read = 0, [], []
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def reads(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        nonlocal statements
        statements += 1
        return db.execute(sql, values).fetchall()

    async def use() -> None:
        request = Request({"type": "http", "method": "GET", "path": "/", "headers": []}, receive)
        async for part in exported(request, RequestSearch(reads), Asked(Search(), {})):
            lines.append(part.count("\n"))
            read.append(statements)
            if len(lines) == leaves_after:
                left.set()
        read.append(statements)

    asyncio.run(use())
    return lines, read


def test_an_export_has_every_request_and_reads_one_batch_at_a_time(db: sqlite3.Connection) -> None:
    lines, read = download(db, None)
    assert lines == [1, *[BATCH_ROWS] * BATCHES]
    assert read[0] == 0, "the names of the columns need no statement"
    assert 0 < read[1] < read[2] < read[3]


def test_nothing_more_is_read_when_the_client_leaves(db: sqlite3.Connection) -> None:
    lines, read = download(db, 2)
    assert lines == [1, BATCH_ROWS]
    assert read[-1] == read[1]
    lines, read = download(db, 1)
    assert (lines, read) == ([1], [0, 0])
