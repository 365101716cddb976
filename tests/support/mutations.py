"""JSON as no upstream should send it: a value somewhere in a good document is of another kind, gone or moved."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import strategies as st

from tests.support.dialogues import sse
from tests.support.frames import frames

DEEP: Any = orjson.loads(b"[" * 300 + b"]" * 300)
NESTED: Any = orjson.loads(b'{"a":' * 150 + b"1" + b"}" * 150)
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.5, 1e300, 2**53, 2**63, -(2**63), 10**30),
    *("", "x", "0", "stop", "error", "assistant", "[DONE]", "\u0000", "\u2028", "\U0001f600", "x" * 3000),
    *([], {}, [[]], [{}], [None], ["x"], {"a": None}, {"index": 0}, {"message": "no"}, {"0": {}}),
    *(DEEP, NESTED),
]
RAW = [
    b"NaN",
    b"Infinity",
    b'"\\ud83d"',
    b'"\\ude00"',
    b'"\xff"',
    b'"\\x"',
    b"1e999",
    b"",
    b"{",
    b"'x'",
    b"01",
]
"""What stands in place of a value in bytes that are no JSON, or hardly."""
MARK = "\u2603 here"


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value has others in it, itself included."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(path for name, one in inner for path in paths(one, (*at, name)))]


def changed(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy in which `change` was made of what lies there; without it where that is `...`."""
    if not path:
        return change(value)
    copy = value.copy()
    new = changed(value[path[0]], path[1:], change)
    if new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = new
    return copy


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> bytes:
    """The document's bytes after one to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(document)))
        how = draw(
            st.sampled_from(["replace", "replace", "replace", "delete", "wrap", "list", "twice", "raw"])
        )
        if how == "raw":
            raw = dumps(changed(document, path, lambda _: MARK))
            return raw.replace(dumps(MARK), draw(st.sampled_from(RAW)), 1)
        odd = draw(st.sampled_from(ODD))
        changes: dict[str, Any] = {
            "replace": lambda _, odd=odd: odd,
            "delete": lambda _, path=path: ... if path else {},
            "wrap": lambda value: {"value": value},
            "list": lambda value: [value],
            "twice": lambda value: [*value, *value] if isinstance(value, list) else value,
        }
        document = changed(document, path, changes[how])
    return dumps(document)


def dumps(document: Any) -> bytes:
    """Writes what our serialiser refuses: numbers of any length, any depth."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def pieces_of(stream: bytes) -> list[tuple[str, bytes]]:
    """A good stream's events: their names and their data."""
    return [(frame.event, frame.data) for frame in frames(stream)]


def joined(pieces: list[tuple[str, bytes]]) -> bytes:
    return b"".join((b"event: %s\n" % name.encode() if name else b"") + sse(data) for name, data in pieces)


@st.composite
def mutated_stream(draw: st.DrawFn, stream: bytes) -> bytes:
    """A stream of which one to three pieces were changed, left out, or came twice or in another place."""
    pieces = pieces_of(stream)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(pieces) - 1))
        name, data = pieces[at]
        how = draw(st.sampled_from(["mutate", "mutate", "mutate", "leave out", "again", "move", "name"]))
        if how == "mutate" and data.startswith(b"{") and data.endswith(b"}") and _is_json(data):
            pieces[at] = (name, draw(mutated(orjson.loads(data))))
        elif how == "leave out" and len(pieces) > 1:
            del pieces[at]
        elif how == "again":
            pieces.insert(at, (name, data))
        elif how == "move":
            pieces.insert(draw(st.integers(0, len(pieces) - 1)), pieces.pop(at))
        elif how == "name":
            pieces[at] = (draw(st.sampled_from(["", "message", "error", "ping", "x"])), data)
    return joined(pieces)


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
