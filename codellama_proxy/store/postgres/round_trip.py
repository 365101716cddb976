"""Statements that are sent and answered together: one round trip and a few system calls, whatever their number.

The driver's own pipeline sends each statement by itself, and makes a cursor for each: several times the work of the
ledger's decision. Here libpq is used directly. Statements are prepared at their first use on a connection.
"""

from __future__ import annotations

import itertools
import re
import select
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from psycopg import Connection, OperationalError
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

_PLACEHOLDER = re.compile(r"%s|%%")
_QUOTED = re.compile(r'(["\\])')
_RESULTS = Format.BINARY
"""Numbers are neither printed nor parsed."""
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

Value = str | bytes | int | float | Sequence[str] | Sequence[bytes] | None


class Answer(Protocol):
    """The result of a statement, once the round trip is over."""

    @property
    def rows(self) -> list[tuple[Any, ...]]: ...


class _Answer:
    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []


class Wire:
    """What the round trips of one connection share: the names of prepared statements, and what is costly to make."""

    def __init__(self, connection: Connection[Any], *, prepare: bool) -> None:
        """Not `prepare`: behind a pooler that knows no prepared statements."""
        self.connection = connection
        self.prepare = prepare
        self.transformer = Transformer(connection)
        self._names: dict[str, bytes] = {}
        self._numbers = itertools.count()
        self._answers = select.poll()
        self._answers.register(connection.pgconn.socket, select.POLLIN)

    def name(self, sql: str) -> tuple[bytes, bool]:
        """The name of a statement, and whether it is new."""
        known = self._names.get(sql)
        if known is not None:
            return known, False
        name = self._names[sql] = b"trip_%d" % next(self._numbers)
        return name, True

    def forget(self) -> None:
        """After an error or a roll-back the server may not have them. Names are not used again."""
        self._names.clear()

    def wait_for_answer(self) -> None:
        self._answers.poll()

    def wait_for_answer_or_room(self) -> bool:
        """Until something can be read or sent; returns whether it can be read."""
        both = select.poll()
        both.register(self.connection.pgconn.socket, select.POLLIN | select.POLLOUT)
        return bool(both.poll()[0][1] & ~select.POLLOUT)


class RoundTrip:
    """On a connection in no other use while `finish` runs. `send` only collects."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pgconn = wire.connection.pgconn
        self._statements: list[tuple[str, list[bytes | None], _Answer]] = []

    def send(self, sql: str, *values: Value) -> Answer:
        """A statement with `%s` for each value; the server chooses their types."""
        answer = _Answer()
        self._statements.append((sql, [_encoded(value) for value in values], answer))
        return answer

    def finish(self) -> None:
        """Send everything and wait for the answers. Raises `session.ServerError`, the first one.

        The statements after one that failed have no effect.
        """
        failed: BaseException | None = None
        try:
            self._pgconn.enter_pipeline_mode()
            expected = self._send_all()
            self._flush()
            for answer in expected:
                error = self._take(answer)
                failed = failed or error
            self._result()  # the end: a transaction without `begin` is committed
            self._pgconn.exit_pipeline_mode()
        except BaseException as error:  # what was answered is not known any more
            self._wire.connection.close()
            raise failed or error from None
        if failed is not None:
            self._wire.forget()
            raise failed

    def _send_all(self) -> list[_Answer]:
        """The answers to expect, in order."""
        expected = []
        pgconn, wire = self._pgconn, self._wire
        for sql, values, answer in self._statements:
            if wire.prepare:
                name, is_new = wire.name(sql)
                if is_new:
                    pgconn.send_prepare(name, _numbered(sql))
                    expected.append(_Answer())
                pgconn.send_query_prepared(name, values, result_format=_RESULTS)
            else:
                pgconn.send_query_params(_numbered(sql), values, result_format=_RESULTS)
            expected.append(answer)
        pgconn.pipeline_sync()
        return expected

    def _take(self, answer: _Answer) -> BaseException | None:
        """Read the next answer; returns its error."""
        result = self._result()
        if result is None:
            raise OperationalError("the server's answers do not match the statements")
        self._pgconn.get_result()  # there is no more of this statement
        if result.status not in _DONE:
            return error_from_result(result, "utf-8")
        if result.ntuples:
            transformer = self._wire.transformer
            transformer.set_pgresult(result)
            answer.rows = transformer.load_rows(0, result.ntuples, tuple)
        return None

    def _flush(self) -> None:
        """Send what is buffered; what arrives meanwhile is read, so that neither side waits for the other."""
        while self._pgconn.flush():
            if self._wire.wait_for_answer_or_room():
                self._pgconn.consume_input()

    def _result(self) -> PGresult | None:
        while self._pgconn.is_busy():
            self._wire.wait_for_answer()
            self._pgconn.consume_input()
        return self._pgconn.get_result()


@lru_cache(64)
def _numbered(sql: str) -> bytes:
    numbers = itertools.count(1)
    return _PLACEHOLDER.sub(lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", sql).encode()


def _encoded(value: Value) -> bytes | None:
    """In the text format. PostgreSQL stores no NUL, and only valid Unicode."""
    match value:
        case None | bytes():
            return value
        case str():
            return value.replace("\0", "\ufffd").encode("utf-8", "replace")
        case int() | float():
            return repr(value).encode()
        case _:
            return b"{" + b",".join([_element(one) for one in value]) + b"}"


def _element(value: str | bytes) -> bytes:
    text = f"\\x{value.hex()}" if isinstance(value, bytes) else value.replace("\0", "\ufffd")
    if '"' in text or "\\" in text:
        text = _QUOTED.sub(r"\\\1", text)
    return b'"' + text.encode("utf-8", "replace") + b'"'
