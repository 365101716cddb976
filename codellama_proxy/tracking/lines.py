"""Formats log lines: bounded in length, with control characters escaped."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.clock import iso_ms

MAX_LINE_BYTES = 16_000
SHORT_LINE_BYTES = 1_000
"""Lines up to this are not searched for long texts: records cut what comes from outside with `bounded` themselves."""
MAX_MESSAGE_CHARS = 4_000
"""Of the proxy's own messages."""
BOUNDS = ((256, 64), (64, 16), (16, 4))
"""Characters per text and items per list, tried in this order until the line is short enough."""

REQUEST = "request"
"""The message of lines about finished requests."""

_OF_REQUESTS = b'"level":"info","message":"%b",' % REQUEST.encode()

_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters that JSON does not escape and terminals interpret."""


def as_json(fields: Mapping[str, Any], message: str, level: str = "info") -> bytes:
    """One line of JSON: the time, the level, the message and the fields."""
    event = {"time": iso_ms(time.time()), "level": level, "message": message, **fields}
    line = _dumped(event)
    if len(line) <= SHORT_LINE_BYTES or (len(line) <= MAX_LINE_BYTES and _is_short(event)):
        return line
    for texts, items in BOUNDS:
        cut = bounded(event, texts, items)
        cut["message"] = message[: texts * MAX_MESSAGE_CHARS // 256]  # the proxy's own, so it may be longer
        line = _dumped(cut)
        if len(line) <= MAX_LINE_BYTES:
            return line
    return _dumped({"time": event["time"], "level": "warning", "message": "a log line was too long"})


def request_as_json(record: Mapping[str, Any]) -> bytes:
    """`as_json` for a finished request: a record has at least one field, and no time, level or message."""
    line = _dumped(record)
    if len(line) > SHORT_LINE_BYTES:
        return as_json(record, REQUEST)
    return b'{"time":"%b",%b%b' % (iso_ms(time.time()).encode(), _OF_REQUESTS, line[1:])


def as_text(text: str, level: str = "info") -> bytes:
    """The text as one line, after its level unless that is `info`."""
    mark = "" if level == "info" else f"{level}: "
    return f"{mark}{printable(text[:MAX_MESSAGE_CHARS])}".encode("utf-8", "backslashreplace")[:MAX_LINE_BYTES]


_SCALARS = frozenset({int, float, bool, type(None)})


def _is_short(value: Any) -> bool:
    """Whether a dict or list is what `bounded` would return: short, and of JSON's own types."""
    most_texts, most_items = BOUNDS[0]
    for one in value.values() if type(value) is dict else value:
        kind = type(one)
        if kind is str:
            if len(one) > most_texts:
                return False
        elif kind is list:
            if len(one) > most_items or not _is_short(one):
                return False
        elif kind is dict:
            if not _is_short(one):
                return False
        elif kind not in _SCALARS:
            return False
    return True


def bounded(value: Any, texts: int = BOUNDS[0][0], items: int = BOUNDS[0][1]) -> Any:
    """The value with its texts and lists cut to these lengths."""
    if isinstance(value, str):
        return value if len(value) <= texts else f"{value[: texts - 3]}..."
    if isinstance(value, Mapping):
        return {name: bounded(one, texts, items) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [bounded(one, texts, items) for one in value[:items]]
    return value


def printable(text: str) -> str:
    """The text with control characters escaped, so that clients cannot move the cursor or start a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _dumped(fields: Mapping[str, Any]) -> bytes:
    try:
        line = orjson.dumps(fields, default=str)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot encode
        line = json.dumps(fields, default=str).encode()
    if line.isascii() and b"\x7f" not in line:
        return line
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()
