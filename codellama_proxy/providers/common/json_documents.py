"""Reads JSON documents that upstreams send: a document is read whole or the attempt fails.

Bytes that are not UTF-8 become U+FFFD, as the rules for event streams say. Half of a surrogate pair at the end of a
stream's piece waits for the other half at the beginning of the next piece of the same text. Whatever else is not
JSON, is not finite or is nested deeper than `MAX_DEPTH` raises `UnreadableError`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.fields import deeper_than

MAX_DEPTH = 200
"""Levels of nesting. The serialiser takes 254, and answers are put into a few levels of ours."""
MOST_PARTS = 20_000
"""Brackets in one piece of a stream: what has more takes too long to look through between two others."""
MOST_VALUES = 200_000
"""Brackets and commas in one piece of a stream."""
MOST_PARTS_WHOLE = 400_000
MOST_VALUES_WHOLE = 2_000_000
"""Brackets and commas in a whole answer: the parser holds up all else, in whichever thread it runs."""
MOST_MENDED = 64 << 10
"""Bytes of a piece that is mended, text by text: that is slow."""
MOST_MENDED_WHOLE = 1 << 20
"""Of a whole document."""
BOM = b"\xef\xbb\xbf"


class UnreadableError(AttemptError):
    """A document, or a piece of a stream, that is no JSON we can read."""

    def __init__(self, reason: str = "not_json") -> None:
        super().__init__(failures.disguised(reason, status=200))


def loads(data: bytes) -> Any:
    """The value of a document that is well formed to the last byte. Raises `UnreadableError`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise UnreadableError from None
    # Fewer brackets than the limit cannot nest deeper than it: most documents need no walk.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and deeper_than(found, MAX_DEPTH):
        raise UnreadableError("too_deep")
    return found


def piece(data: bytes) -> Any:
    """The value of one piece of a stream. Raises `AttemptError`."""
    if len(data) > MOST_PARTS and (
        data.count(b"{") + data.count(b"[") > MOST_PARTS or data.count(b",") > MOST_VALUES
    ):
        raise AttemptError(failures.disguised("too_many_parts", status=200))
    return loads(data)


def whole(data: bytes) -> Any:
    """The value of a whole answer. Raises `AttemptError`."""
    if has_too_many_parts(data):
        raise AttemptError(failures.disguised("too_many_parts", status=200))
    return loads(data)


def has_too_many_parts(data: bytes) -> bool:
    """Whether a document is too large in its structure to be parsed at once."""
    return len(data) > MOST_PARTS_WHOLE and (
        data.count(b"{") + data.count(b"[") > MOST_PARTS_WHOLE or data.count(b",") > MOST_VALUES_WHOLE
    )


def mended(data: bytes) -> bytes:
    """A whole document with what can be mended in its encoding. Raises `UnreadableError`."""
    halves = Halves()
    found = halves.mended(data.removeprefix(BOM), MOST_MENDED_WHOLE)
    if halves.open:
        raise UnreadableError("half_character")
    return found


# --- surrogate pairs in two pieces ---------------------------------------------------------------------------

Path = tuple[str | int, ...]
_SURROGATE = re.compile("[\ud800-\udfff]")


class Halves:
    """Characters of which a stream has sent the first half only."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open: dict[Path, str] = {}
        """By the text that they are part of: the path to it, in which lists go by their items' `index`."""

    def mended(self, data: bytes, most: int = MOST_MENDED) -> bytes:
        """The piece, with the half that was missing at its beginning and without the one at its end.

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
    """An item that has an index goes by it, one that has none by its position."""
    indexed = isinstance(item, dict) and isinstance(item.get("index"), int)
    return path if indexed else (*path, at)


def _pair(high: str, text: str) -> str:
    """`text` after the half that came before it."""
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
