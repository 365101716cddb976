"""Unquoted YAML scalars to values, by the core schema of YAML 1.2 or by the rules of YAML 1.1. Pure.

By 1.2, `no` and `1:30` are text; fractions stay exact (`Decimal`). A number with leading zeros is text: it is octal
to some readers and decimal to others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,60}|(0|[1-9][0-9]{0,59})(\.[0-9]{0,60})?)([eE][-+]?[0-9]{1,5})?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), Decimal("Infinity")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), Decimal("-Infinity")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), Decimal("NaN")),
}


_FLAGS_1_1: Mapping[str, bool] = {
    form: meaning
    for word, meaning in (("yes", True), ("on", True), ("no", False), ("off", False))
    for form in (word, word.capitalize(), word.upper())
}


class Substituted(str):
    """A scalar that substitution made look like a number or boolean: text where text is wanted."""

    __slots__ = ()


class Quoted(Substituted):
    """One in quotes, which `{a: "${NAME}"}` cannot do without: text where anything may stand."""

    __slots__ = ()


def resolve(text: str) -> Any:
    """An unquoted scalar's value."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return Decimal(text)
    if re.fullmatch(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}", text):
        return int(text, 0)
    return text


def resolve_1_1(text: str) -> Any:
    """An unquoted scalar's value by YAML 1.1, which most other tools follow; dates stay text."""
    if text in _FLAGS_1_1:
        return _FLAGS_1_1[text]
    if re.fullmatch(r"[-+]?[0-9]{1,40}(_[0-9]{1,40}){1,20}", text):
        return int(text.replace("_", ""))
    return int(text, 8) if re.fullmatch(r"[-+]?0[0-7]{1,40}", text) else resolve(text)


def plain(value: Any) -> Any:
    """The value for a place that wants a number or a boolean."""
    return resolve(value) if isinstance(value, Substituted) else value
