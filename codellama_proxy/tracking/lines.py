"""One line of the log, of bounded length, with its control characters escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

MAX_LINE = 16_000
"""Bytes."""
MAX_MESSAGE = 4_000
"""Characters of what the proxy itself says."""
BOUNDS = ((256, 64), (64, 16), (16, 4))
"""Characters of a text and items of a list, tried in this order until the line is short enough."""

_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What terminals obey and JSON leaves as it is; the other control characters JSON escapes by itself."""


def as_json(fields: Mapping[str, Any]) -> bytes:
    """The fields and the time. `message` is the proxy's own and may be longer than other texts."""
    message = str(fields.get("message", ""))
    for texts, items in BOUNDS:
        said = {
            "time": _now(),
            **bounded(fields, texts, items),
            "message": message[: texts * MAX_MESSAGE // 256],
        }
        line = _dumped(said)
        if len(line) <= MAX_LINE:
            return line
    return _dumped({"time": _now(), "level": "warning", "message": "a log line was too long"})


def as_text(text: str, level: str = "info") -> bytes:
    mark = "" if level == "info" else f"{level}: "
    return f"{mark}{printable(text[:MAX_MESSAGE])}".encode("utf-8", "backslashreplace")[:MAX_LINE]


def bounded(value: Any, texts: int = BOUNDS[0][0], items: int = BOUNDS[0][1]) -> Any:
    """The value with its texts and lists no longer than that."""
    if isinstance(value, str):
        return value if len(value) <= texts else f"{value[: texts - 3]}..."
    if isinstance(value, Mapping):
        return {name: bounded(one, texts, items) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [bounded(one, texts, items) for one in value[:items]]
    return value


def printable(text: str) -> str:
    """With its control characters escaped: what clients say neither moves a cursor nor begins a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _dumped(fields: Mapping[str, Any]) -> bytes:
    try:
        line = orjson.dumps(fields, default=str)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot say
        line = json.dumps(fields, default=str).encode()
    if line.isascii() and b"\x7f" not in line:
        return line
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode()).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
