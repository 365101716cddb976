"""Translates the SQL of `store.sql`, which SQLite runs as it is, for PostgreSQL. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

MAX_STATEMENTS = 4096

_WORD = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![:\w]):([a-z_]\w*)|(\?)|(?<!\w)(user)(?!\w)|%")
"""Literals and quoted names, placeholders, the reserved word, and what psycopg would take for a placeholder."""
_DATE = re.compile(r"\bdate\(([^()]+), 'unixepoch'\)")
_WHOLE_SECONDS = re.compile(r"\bcast\((\w+) as integer\)")
_SECONDS_OF_DAY = re.compile(r"\bcast\(strftime\('%s', (\w+)\) as integer\)")
_SCALAR = re.compile(r"\b(min|max)\(([\w.]+), ([\w.]+)\)")
_LIKE = {"min": "least", "max": "greatest"}


@lru_cache(MAX_STATEMENTS)
def translated(sql: str) -> str:
    """The statement with psycopg's placeholders, quoted `user`, and PostgreSQL's functions."""
    sql = _DATE.sub(r"to_char(to_timestamp(\1) at time zone 'UTC', 'YYYY-MM-DD')", sql)
    sql = _SECONDS_OF_DAY.sub(r"cast(extract(epoch from cast(\1 as timestamp)) as bigint)", sql)
    sql = _WHOLE_SECONDS.sub(r"cast(floor(\1) as bigint)", sql)
    sql = _SCALAR.sub(lambda found: f"{_LIKE[found[1]]}({found[2]}, {found[3]})", sql)
    return _WORD.sub(_word, sql)


def _word(found: re.Match[str]) -> str:
    name, positional, user = found.groups()
    if name is not None:
        return f"%({name})s"
    if positional is not None:
        return "%s"
    return '"user"' if user is not None else found[0].replace("%", "%%")
