"""Loads named SQL statements from `.sql` files, which are beside the modules that use them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Protocol


class Rows(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Session(Protocol):
    """A connection. Placeholders of statements are `?`, or `:name`."""

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ..., /) -> Rows: ...


Query = tuple[str, list[Any]]
"""A statement and its values; or a condition and its values."""

_NAME = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


@cache
def load(name: str, package: str = "codellama_proxy.store.sql") -> Mapping[str, str]:
    """The statements of `<name>.sql` in the folder of `package`, by name."""
    text = (files(package) / f"{name}.sql").read_text("utf-8")
    return MappingProxyType(parse(text))


def parse(text: str) -> dict[str, str]:
    """Statements by name. Format: `-- name: insert_key`, a description line `-- ...`, one statement.

    Raises `ValueError` for another format or a duplicate name.
    """
    queries: dict[str, str] = {}
    for name, body in _sections(text):
        description, _, statement = body.lstrip("\n").partition("\n")
        statement = statement.strip().rstrip(";")
        if not description.startswith("-- ") or not statement:
            raise ValueError(f"query {name}: a description line, then a statement")
        if name in queries:
            raise ValueError(f"query {name}: defined twice")
        queries[name] = statement
    return queries


def _sections(text: str) -> Iterator[tuple[str, str]]:
    _, *parts = _NAME.split(text)
    return zip(parts[::2], parts[1::2], strict=True)


def where(*conditions: tuple[str, Any]) -> Query:
    """The conditions with a value, joined by `and`, and their values; `true` if there is none."""
    given = [(sql, value) for sql, value in conditions if value is not None]
    return " and ".join(sql for sql, _ in given) or "true", [value for _, value in given]
