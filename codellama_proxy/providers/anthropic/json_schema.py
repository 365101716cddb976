"""JSON Schemas in the subset that structured output supports: closed objects, limits moved to descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IN_WORDS = (
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)
OF_SCHEMAS = ("properties", "$defs", "definitions")
LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
SINGLE = ("items", "not", "additionalProperties")


def closed(schema: object) -> Any:
    """The schema with `additionalProperties: false` on every object that does not set it."""
    if not isinstance(schema, Mapping):
        return schema
    found = {name: _inner(name, value) for name, value in schema.items() if name not in IN_WORDS}
    limits = [f"{name}: {schema[name]}" for name in IN_WORDS if name in schema]
    if limits:
        described = [str(schema["description"])] if schema.get("description") else []
        found["description"] = " ".join([*described, f"({', '.join(limits)})"])
    kind = schema.get("type")
    is_object = kind == "object" or (isinstance(kind, list | tuple) and "object" in kind)
    if (is_object or "properties" in schema) and schema.get("additionalProperties", True) is True:
        found["additionalProperties"] = False
    return found


def _inner(name: str, value: Any) -> Any:
    if name in OF_SCHEMAS and isinstance(value, Mapping):
        return {key: closed(one) for key, one in value.items()}
    if name in LISTS and isinstance(value, list | tuple):
        return [closed(one) for one in value]
    return closed(value) if name in SINGLE else value
