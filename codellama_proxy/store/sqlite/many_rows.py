"""Writes many rows in few statements: each statement costs more than a row, and hands over the interpreter."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

from codellama_proxy.store.sqlite.connection import unavailable

ROWS_PER_STATEMENT = (64, 16, 4, 1)

T = TypeVar("T")
log = logging.getLogger(__name__)


def execute_many(db: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Execute `sql` for all rows; `{rows}` in it stands for the placeholders of one or more of them.

    A row that the database refuses is logged and left out: the others must not be lost with it.
    """
    for some in in_batches(rows):
        _execute(db, sql, some)


def in_batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows in as few batches as possible, of few sizes, so that few statements are prepared."""
    at = 0
    for count in ROWS_PER_STATEMENT:
        while len(rows) - at >= count:
            yield rows[at : at + count]
            at += count


def execute_each(db: sqlite3.Connection, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Execute `sql` for each row; as in `execute_many`, one that the database refuses is logged and left out."""
    for row in rows:
        _execute(db, sql, (row,))


def _execute(db: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        db.execute(with_rows(sql, len(rows), len(rows[0])), tuple(chain.from_iterable(rows)))
    except Exception as error:
        if unavailable(error):
            raise
        if len(rows) > 1:
            for row in rows:
                _execute(db, sql, (row,))
        else:
            log.error("a row could not be written to the ledger: %s", rows[0][:2], exc_info=error)


@cache
def with_rows(sql: str, rows: int, columns: int) -> str:
    """`sql` with placeholders for a number of rows in place of `{rows}`."""
    row = f"({', '.join('?' * columns)})"
    return sql.replace("{rows}", ", ".join([row] * rows))
