"""Short strings of the formats and patterns of JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MAX_PATTERN_CHARACTERS = 1_000
MAX_MATCH_CHARACTERS = 1_000
MAX_GROUPS = 50
"""Nested groups of a pattern."""

FORMATS: Mapping[str, str] = {
    "date-time": "1970-01-01T00:00:00Z",
    "date": "1970-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "a@example.com",
    "idn-email": "a@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com",
    "iri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""By the value of `format`."""

_CLASSES: Mapping[str, str] = {"d": "0", "w": "a", "s": " ", "D": "a", "W": " ", "S": "a"}
_RANGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "d": (("0", "9"),),
    "w": (("a", "z"), ("A", "Z"), ("0", "9"), ("_", "_")),
    "s": ((" ", " "), ("\t", "\r")),
}
_CONTROLS: Mapping[str, str] = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_CANDIDATES = "a0A _-.:/@" + "".join(map(chr, range(33, 127)))


class _UnsupportedError(Exception):
    """The pattern uses what this module does not understand, or exceeds a bound."""


class _Repeat(NamedTuple):
    least: int
    most: int | None


def matching(pattern: str, least: int = 0) -> str | None:
    """A short string of at least `least` characters, if possible, that `pattern` (ECMA 262) finds.

    `None` for patterns with backreferences, look-around and other rare syntax, and for those beyond the bounds.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS or least > MAX_MATCH_CHARACTERS:
        return None
    try:
        shortest = _Pattern(pattern, 0).whole()
        # The same pattern with more repetitions where it allows them.
        return shortest if len(shortest) >= least else _Pattern(pattern, least - len(shortest)).whole()
    except _UnsupportedError:
        return None


class _Pattern:
    """Reads a pattern once, from left to right, and writes a match. `missing`: characters to add."""

    def __init__(self, text: str, missing: int) -> None:
        self._text = text
        self._at = 0
        self._missing = missing
        self._groups = 0

    def whole(self) -> str:
        found = self._alternatives()
        if self._at < len(self._text):
            raise _UnsupportedError
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise _UnsupportedError
        self._at += 1
        return char

    def _alternatives(self) -> str:
        """The first alternative; the others are only read."""
        found = self._sequence()
        while self._peek() == "|":
            self._at += 1
            missing, self._missing = self._missing, 0
            self._sequence()
            self._missing = missing
        return found

    def _sequence(self) -> str:
        found = ""
        while self._peek() not in ("", "|", ")"):
            one = self._atom()
            found += self._repeated(one)
            if len(found) > MAX_MATCH_CHARACTERS:
                raise _UnsupportedError
        return found

    def _repeated(self, one: str) -> str:
        times, most = self._quantifier()
        if one and self._missing > 0:
            more = -(-self._missing // len(one))
            more = more if most is None else max(min(more, most - times), 0)
            self._missing -= more * len(one)
            times += more
        if times * len(one) > MAX_MATCH_CHARACTERS:
            raise _UnsupportedError
        return one * times

    def _atom(self) -> str:
        match self._next():
            case "^" | "$":
                return ""
            case ".":
                return "a"
            case "[":
                return self._class()
            case "(":
                return self._group()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise _UnsupportedError
            case char:
                return char

    def _group(self) -> str:
        self._groups += 1
        if self._groups > MAX_GROUPS:
            raise _UnsupportedError
        if self._peek() == "?":
            self._at += 1
            if self._next() != ":":
                raise _UnsupportedError
        found = self._alternatives()
        if self._next() != ")":
            raise _UnsupportedError
        return found

    def _escape(self) -> str:
        char = self._next()
        if char in "bB":
            return ""
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isalnum():
            raise _UnsupportedError
        return char

    def _class(self) -> str:
        """The first member of a character class; of a negated one, a character that it does not exclude."""
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[str, str]] = []
        while self._peek() != "]":
            if (
                self._text[self._at : self._at + 1] == "\\"
                and self._text[self._at + 1 : self._at + 2] in _RANGES
            ):
                ranges += _RANGES[self._text[self._at + 1]]
                self._at += 2
                continue
            low = self._member(negated=negated)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                ranges.append((low, self._member(negated=negated)))
            else:
                ranges.append((low, low))
        self._at += 1
        if not negated:
            if not ranges:
                raise _UnsupportedError
            return ranges[0][0]
        return next(
            (char for char in _CANDIDATES if not any(low <= char <= high for low, high in ranges)), "€"
        )

    def _member(self, *, negated: bool) -> str:
        char = self._next()
        if char != "\\":
            return char
        if negated and self._peek() in _CLASSES:  # excludes almost everything
            raise _UnsupportedError
        return self._escape() or "\b"

    def _quantifier(self) -> _Repeat:
        found = _Repeat(1, 1)
        match self._peek():
            case "*":
                found = _Repeat(0, None)
            case "+":
                found = _Repeat(1, None)
            case "?":
                found = _Repeat(0, 1)
            case "{":
                return self._counted()
            case _:
                return found
        self._at += 1
        self._skip_lazy()
        return found

    def _counted(self) -> _Repeat:
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : max(end, 0)].partition(",")
        if (
            end < 0
            or not low.isdecimal()
            or len(low) > 4
            or (high and not (high.isdecimal() and len(high) < 9))
        ):
            raise _UnsupportedError
        self._at = end + 1
        self._skip_lazy()
        return _Repeat(int(low), int(high) if high else None if comma else int(low))

    def _skip_lazy(self) -> None:
        if self._peek() == "?":
            self._at += 1
