"""The JSON Schema of proxy.yaml, by which editors complete and check it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codellama_proxy.config.schema import File
from codellama_proxy.config.section import Section

TITLE = "codellama-proxy: proxy.yaml"

MAY_BE_FALSE = {part.__name__ for part in Section.__subclasses__() if part.off is not None} | {"Semantic"}
"""Sections in whose place `false` may stand."""


def schema() -> dict[str, Any]:
    """The JSON Schema of proxy.yaml: each scalar may also be a text with `${...}`, each section empty."""
    made = File.model_json_schema(by_alias=True)
    definitions = {name: _section(part) for name, part in made.pop("$defs").items()}
    definitions["Substitution"] = {
        "type": "string",
        "pattern": r"\$\{",
        "description": "${NAME}, ${NAME:-default} or ${file:/path}.",
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": TITLE}
    return {**head, **_section(made) | {"title": TITLE}, "$defs": dict(sorted(definitions.items()))}


def _section(part: dict[str, Any]) -> dict[str, Any]:
    """An object's schema, its keys widened to what the loader takes before it looks at types."""
    keys = {name: _key(name, value) for name, value in part.get("properties", {}).items()}
    return {name: value for name, value in part.items() if name != "title"} | {"properties": keys}


def _key(name: str, value: dict[str, Any]) -> dict[str, Any]:
    kept = {word: value[word] for word in ("description", "default") if word in value}
    if isinstance(kept.get("default"), dict):
        del kept["default"]  # a section's defaults are shown with its keys
    core = {
        word: content for word, content in value.items() if word not in {"title", "description", "default"}
    }
    return _widened(core, may_be_empty=name != "models") | kept


def _widened(core: dict[str, Any], *, may_be_empty: bool) -> dict[str, Any]:
    options = list(_options(core))
    if any(_is_section(option) for option in options) and may_be_empty and {"type": "null"} not in options:
        options.append({"type": "null"})
    if any(option.get("$ref", "").rpartition("/")[2] in MAY_BE_FALSE for option in options):
        options.append({"const": False})
    if any(_is_scalar(option) for option in options):
        options.append({"$ref": "#/$defs/Substitution"})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _options(core: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if set(core) == {"anyOf"}:
        for option in core["anyOf"]:
            yield from _options(option)
    elif core.get("type") == "array":
        yield core | {"items": _widened(core["items"], may_be_empty=False)}
    elif "patternProperties" in core:
        inner = {name: _widened(part, may_be_empty=True) for name, part in core["patternProperties"].items()}
        yield core | {"patternProperties": inner, "additionalProperties": False}
    else:
        yield core


def _is_section(option: dict[str, Any]) -> bool:
    return "$ref" in option or option.get("type") == "object"


def _is_scalar(option: dict[str, Any]) -> bool:
    """Free text takes a substitution as it is."""
    free = option.get("type") == "string" and not option.keys() & {"pattern", "enum", "const"}
    return not free and not _is_section(option) and option.get("type") not in {"array", "null"}
