"""Small instances of JSON Schemas, for the mock's tool calls and structured output.

Covers the keywords that providers accept for structured output (JSON Schema 2020-12). Any schema gives an instance
in bounded time: invalid, contradictory and endless ones give an approximation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import orjson

from codellama_proxy.providers.mock.quantities import count, is_number, nearest_zero
from codellama_proxy.providers.mock.strings import FORMATS, matching

MAX_STEPS = 5_000
"""Schemas, properties and items that are visited."""
MAX_INSTANCE_BYTES = 8_192
MAX_SCHEMA_DEPTH = 64
"""Nested schemas, references included."""

_TYPE_OF_KEYWORD: Mapping[str, str] = {
    **dict.fromkeys(("properties", "required", "minProperties", "additionalProperties"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "contains"), "array"),
    **dict.fromkeys(("pattern", "format", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"), "number"),
}
_EMPTY: Mapping[str, Any] = {
    "object": {},
    "array": [],
    "string": "",
    "boolean": False,
    "number": 0,
    "integer": 0,
}
_LOWER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_SCALARS = frozenset({"null", "boolean", "string", "number", "integer"})

Schema = Mapping[str, Any]


class _ImpossibleError(Exception):
    """The schema has no instance, or only an endless one."""


class _TooLargeError(Exception):
    """A bound of this module is reached."""


def instance(schema: Any) -> Any:
    """A small instance of `schema`, whose references are resolved within it. Never raises."""
    try:
        return _Generator(schema).value(schema, 0)
    except (_ImpossibleError, _TooLargeError):
        return _EMPTY.get(_type(schema if isinstance(schema, dict) else {}) or "object")


class _Generator:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = MAX_STEPS
        self._bytes = MAX_INSTANCE_BYTES // 2  # braces and short values are not counted
        self._open: set[str] = set()
        """References being resolved: the smallest instance of one never contains another of the same."""

    def value(self, schema: Any, depth: int) -> Any:
        self._step()
        if schema is False:
            raise _ImpossibleError
        if depth > MAX_SCHEMA_DEPTH:
            raise _TooLargeError
        if not isinstance(schema, dict):
            return ""
        self._step(len(schema) // 20)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self._referenced(reference, schema, depth)
        if "const" in schema:
            return self._literal(schema["const"])
        allowed = schema.get("enum")
        if isinstance(allowed, list) and allowed:
            return self._literal(allowed[0])
        parts = schema.get("allOf")
        if isinstance(parts, list) and parts:
            return self.value(self._merged(schema, parts), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            alternatives = schema.get(keyword)
            if isinstance(alternatives, list) and alternatives:
                return self._alternative(schema, keyword, alternatives, depth)
        return self._typed(schema, depth)

    def _typed(self, schema: Schema, depth: int) -> Any:
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return nearest_zero(schema, whole=True)
            case "number":
                return nearest_zero(schema, whole=False)
            case "boolean":
                return False
            case "null":
                return None
        return self._string(schema)

    # --- composed schemas ----------------------------------------------------------------------------------

    def _referenced(self, reference: str, schema: Schema, depth: int) -> Any:
        if reference in self._open:
            raise _ImpossibleError
        self._open.add(reference)
        try:
            found = self._resolved(reference)
            beside = {name: value for name, value in schema.items() if name != "$ref"}
            if isinstance(found, dict) and beside.keys() - {"description", "title", "$defs", "definitions"}:
                found = {"allOf": [found, beside]}
            return self.value(found, depth + 1)
        finally:
            self._open.discard(reference)

    def _resolved(self, reference: str) -> Any:
        """The schema at a JSON pointer (RFC 6901) in the root; `True` for anything else."""
        if not reference.startswith("#"):
            return True
        self._step(len(reference) // 100)
        found: Any = self._root
        for part in unquote(reference[1:]).split("/")[1:]:
            self._step()
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and len(name) < 6 and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return True
        return found

    def _alternative(self, schema: Schema, keyword: str, alternatives: list[Any], depth: int) -> Any:
        """The first possible alternative, scalars first."""
        rest = {name: value for name, value in schema.items() if name != keyword}
        self._step(len(alternatives) // 10)
        ranked = sorted(alternatives, key=_rank)
        for one in ranked:
            try:
                return self.value(self._merged(rest, [one]) if rest else one, depth + 1)
            except _ImpossibleError:
                continue
        raise _ImpossibleError

    def _merged(self, schema: Schema, parts: list[Any]) -> dict[str, Any]:
        """One schema for `allOf` and what stands beside it."""
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        for part in parts:
            self._step()
            if part is False:
                raise _ImpossibleError
            if isinstance(part, dict):
                for name, value in part.items():
                    self._step()
                    merged[name] = self._both(name, merged[name], value) if name in merged else value
        return merged

    def _both(self, keyword: str, one: Any, other: Any) -> Any:
        """The value of a keyword that two schemas have."""
        if isinstance(one, dict) and isinstance(other, dict) and keyword in ("properties", "items"):
            if keyword == "items":
                return {"allOf": [one, other]}
            self._step(len(one) + len(other))
            shared = {name: {"allOf": [one[name], other[name]]} for name in one.keys() & other.keys()}
            return {**one, **other, **shared}
        if isinstance(one, list) and isinstance(other, list):
            self._step(len(one) + len(other) + len(one) * len(other) // 100)
            if keyword in ("enum", "type"):
                return [value for value in one if value in other] or one
            return [*one, *other]  # `required`; more alternatives
        if is_number(one) and is_number(other) and keyword in _LOWER | _UPPER:
            return max(one, other) if keyword in _LOWER else min(one, other)
        if keyword in ("$ref", "additionalProperties") and one is False:
            return one
        if keyword == "type" and one == "integer":
            return one
        return other

    # --- values ----------------------------------------------------------------------------------------------

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        required = required if isinstance(required, list) else []
        self._step(len(required) // 10)
        names = [name for name in required if isinstance(name, str)]
        made: dict[str, Any] = {}
        for name in names:
            if name not in made:
                made[name] = self._property(schema, properties, name, depth)
        least = count(schema.get("minProperties"))
        others = (name for name in properties if name not in made) if len(made) < least else iter(())
        for name in [*others, *self._new_names(least - len(made), made)]:
            if len(made) < least:
                with suppress(_ImpossibleError):
                    made[name] = self._property(schema, properties, name, depth)
        return made

    def _property(self, schema: Schema, properties: Schema, name: str, depth: int) -> Any:
        self._spend(len(name) + 6)
        return self.value(properties.get(name, _others(schema)), depth + 1)

    def _new_names(self, count: int, taken: Schema) -> Iterator[str]:
        for number in range(1, count + 1):
            self._step()
            if (name := f"property{number}") not in taken:
                yield name

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        first = first if isinstance(first, list) else []
        items = schema.get("items", True)
        if isinstance(items, list):  # before draft 2020-12
            first, items = items, schema.get("additionalItems", True)
        made: list[Any] = []
        wanted = schema.get("contains")
        least = max(count(schema.get("minItems")), 0 if wanted is None else 1)
        for number in range(least):
            self._spend(6)
            of_this = first[number] if number < len(first) else items
            if wanted is not None and number == len(first):
                of_this = {"allOf": [of_this, wanted]} if isinstance(of_this, dict) else wanted
            value = self.value(of_this, depth + 1)
            made.append(_other(value, number, of_this) if schema.get("uniqueItems") is True else value)
        return made

    def _string(self, schema: Schema) -> str:
        least = count(schema.get("minLength"))
        self._spend(least)
        pattern = schema.get("pattern")
        found = matching(pattern, least) if isinstance(pattern, str) else None
        if found is None:
            kind = schema.get("format")
            found = FORMATS.get(kind, "") if isinstance(kind, str) else ""
        self._spend(len(found))
        return found + "a" * (least - len(found)) if pattern is None or not found else found

    def _literal(self, value: Any) -> Any:
        try:
            self._spend(len(orjson.dumps(value)))
        except orjson.JSONEncodeError:
            raise _TooLargeError from None
        return value

    # --- bounds ----------------------------------------------------------------------------------------------

    def _step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise _TooLargeError

    def _spend(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise _TooLargeError


def _type(schema: Schema) -> str | None:
    """The type of instances: the first of several that is not null, else what the keywords are for."""
    given = schema.get("type")
    if isinstance(given, list):
        given = next((one for one in given if one != "null"), "null")
    if isinstance(given, str):
        return given
    return next((kind for keyword, kind in _TYPE_OF_KEYWORD.items() if keyword in schema), None)


def _rank(schema: Any) -> int:
    """How small the instances of an alternative are likely to be."""
    if not isinstance(schema, dict):
        return 3
    if _type(schema) in _SCALARS or "const" in schema or "enum" in schema:
        return 0
    return 1 if _type(schema) in ("object", "array") and not schema.get("required") else 2


def _others(schema: Schema) -> Any:
    """The schema of properties without one of their own."""
    found = schema.get("additionalProperties", True)
    return found if isinstance(found, dict) else True


def _other(value: Any, number: int, schema: Any) -> Any:
    """A value unlike those of the items before it, where its type and its `enum` allow one."""
    allowed = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(allowed, list):
        return allowed[number] if number < len(allowed) else value
    if isinstance(value, str) and number:
        return value + str(number)
    if is_number(value):
        return value + number
    return value if value is not False else number % 2 == 1
