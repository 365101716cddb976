"""Checks values against the keywords of JSON Schema that the tests use, independent of the code under test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def fits(value: Any, schema: Any, root: Any = None) -> bool:
    """Whether `value` is an instance of `schema`; references are resolved in `root`, by default `schema`."""
    root = schema if root is None else root
    if isinstance(schema, bool):
        return schema

    def all_fit(values: Any, schemas: Any) -> bool:
        return all(fits(one, other, root) for one, other in zip(values, schemas, strict=False))

    if "$ref" in schema:
        found = root
        for part in schema["$ref"].split("/")[1:]:
            found = found[part]
        if not fits(value, found, root):
            return False
    checks = (
        "type" not in schema or any(_is(value, one) for one in _listed(schema["type"])),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        all(fits(value, one, root) for one in schema.get("allOf", ())),
        "anyOf" not in schema or any(fits(value, one, root) for one in schema["anyOf"]),
        "oneOf" not in schema or sum(fits(value, one, root) for one in schema["oneOf"]) == 1,
    )
    if not all(checks):
        return False
    if isinstance(value, dict):
        own = schema.get("properties", {})
        others = schema.get("additionalProperties", True)
        return (
            value.keys() >= set(schema.get("required", ()))
            and len(value) >= schema.get("minProperties", 0)
            and all(fits(one, own.get(name, others), root) for name, one in value.items())
        )
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        rest = value[len(first) :]
        unique = not schema.get("uniqueItems") or all(one not in value[:at] for at, one in enumerate(value))
        return (
            len(value) >= schema.get("minItems", 0)
            and unique
            and all_fit(value, first)
            and all_fit(rest, [schema.get("items", True)] * len(rest))
        )
    if isinstance(value, str):
        return (
            len(value) >= schema.get("minLength", 0)
            and re.search(schema.get("pattern", ""), value) is not None
        )
    if _is(value, "number"):
        return (
            schema.get("minimum", value) <= value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
            and value % schema.get("multipleOf", value or 1) == 0
        )
    return True


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])
