"""Parses the JSON documents that upstreams send, plain answers and chunks of streams.

Bytes that are not UTF-8 become U+FFFD, as the HTML standard asks of event streams. Half of a surrogate pair at the
end of a chunk's text is held until the next chunk of the same text brings the other half. Anything else that is not
JSON, is not finite or is nested deeper than `MAX_DEPTH` levels raises `UnreadableError`.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from typing import Any

import orjson

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.fields import deeper_than, may_be_deeper

MAX_DEPTH = 200
"""Levels of nesting. orjson serialises 254, and answers are wrapped in a few levels more."""
MAX_CHUNK_PARTS = 20_000
"""Brackets in one chunk; parsing more would block the event loop too long."""
MAX_CHUNK_VALUES = 200_000
"""Commas in one chunk."""
MAX_ANSWER_PARTS = 400_000
MAX_ANSWER_VALUES = 2_000_000
"""Brackets and commas in a plain answer; the parser holds the GIL, even in a thread."""
MAX_REPAIRED_CHUNK_BYTES = 64 << 10
"""Bytes of a chunk that is repaired; the repair is slow, text by text."""
MAX_REPAIRED_ANSWER_BYTES = 1 << 20
"""Bytes of a plain answer that is repaired."""


class UnreadableError(AttemptError):
    """A document or a chunk that is no readable JSON."""

    def __init__(self, reason: str = "not_json") -> None:
        super().__init__(failures.disguised(reason, status=200))


def loads(data: bytes) -> Any:
    """The value of a document that is well formed to the last byte. Raises `UnreadableError`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UnreadableError from None
    if may_be_deeper(data, MAX_DEPTH) and deeper_than(found, MAX_DEPTH):
        raise UnreadableError("too_deep")
    return found


def piece(data: bytes) -> Any:
    """The value of one chunk. Raises `AttemptError`."""
    if len(data) > MAX_CHUNK_PARTS and (
        data.count(b"{") + data.count(b"[") > MAX_CHUNK_PARTS or data.count(b",") > MAX_CHUNK_VALUES
    ):
        raise AttemptError(failures.disguised("too_many_parts", status=200))
    return loads(data)


def whole(data: bytes) -> Any:
    """The value of a plain answer. Raises `AttemptError`."""
    if has_too_many_parts(data):
        raise AttemptError(failures.disguised("too_many_parts", status=200))
    return loads(data)


def has_too_many_parts(data: bytes) -> bool:
    """Whether a document has too many parts to be parsed."""
    return len(data) > MAX_ANSWER_PARTS and (
        data.count(b"{") + data.count(b"[") > MAX_ANSWER_PARTS or data.count(b",") > MAX_ANSWER_VALUES
    )


def repaired(data: bytes) -> bytes:
    """A document with its encoding repaired. Raises `UnreadableError`."""
    halves = SurrogateHalves()
    found = halves.repaired(data.removeprefix(BOM_UTF8), MAX_REPAIRED_ANSWER_BYTES)
    if halves.open:
        raise UnreadableError("half_character")
    return found


# --- surrogate pairs in two pieces ---------------------------------------------------------------------------

Path = tuple[str | int, ...]
_SURROGATE = re.compile("[\ud800-\udfff]")


class SurrogateHalves:
    """Surrogate pairs of which a stream has sent only the first half."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: dict[Path, str] = {}
        """The first half, by the JSON path of its text. Items of lists go by their `index`, if they have one."""

    def repaired(self, data: bytes, most: int = MAX_REPAIRED_CHUNK_BYTES) -> bytes:
        """The chunk with the half held from the chunk before, and without the half it ends in.

        Raises `UnreadableError`.
        """
        if len(data) > most:
            raise UnreadableError
        try:
            found = json.loads(
                data.decode("utf-8", "replace"), parse_constant=_refused, parse_int=_int, parse_float=_float
            )
            if deeper_than(found, MAX_DEPTH):
                raise UnreadableError("too_deep")
            return orjson.dumps(self._joined(found, ()))
        except (ValueError, TypeError, RecursionError):
            raise UnreadableError from None

    def _joined(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, dict):
            if isinstance(index := value.get("index"), int):
                path = (*path, index)
            return {name: self._joined(inner, (*path, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._joined(inner, _of_item(path, at, inner)) for at, inner in enumerate(value)]
        return value

    def _text(self, text: str, path: Path) -> str:
        if not text:
            return text
        text = _pair(self.open.pop(path, ""), text)
        if "\ud800" <= text[-1] <= "\udbff":
            self.open[path] = text[-1]
            text = text[:-1]
        if _SURROGATE.search(text):
            raise UnreadableError("half_character")
        return text


def _of_item(path: Path, at: int, item: Any) -> Path:
    """The path of a list item: by its `index`, else by its position."""
    indexed = isinstance(item, dict) and isinstance(item.get("index"), int)
    return path if indexed else (*path, at)


def _pair(high: str, text: str) -> str:
    """`text` with the first half put before it."""
    return (high + text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else _float(digits)


def _float(digits: str) -> float:
    found = float(digits)
    if found in (float("inf"), float("-inf")):
        raise ValueError("not finite")
    return found
