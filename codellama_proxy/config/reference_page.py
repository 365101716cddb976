"""Generate docs/configuration.md from the schema: every key once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from codellama_proxy.config.diff import duration
from codellama_proxy.config.schema import File, Limits
from codellama_proxy.config.section import Section
from codellama_proxy.config.validate.messages import section_in

HEAD = """\
# proxy.yaml

Every key of the configuration file. This page is made by `codellama-proxy schema --markdown` from the
definitions the file is read by; `codellama-proxy check` says what is wrong with a file, and editors that know
the YAML language server complete it from `proxy.schema.json`.

- Saved changes take effect within two seconds; a mistake changes nothing and is shown with its line.
- `${NAME}` and `${NAME:-default}` come from the environment or `.env`, `${file:/run/secrets/x}` from a file.
- A duration is a number of seconds, or `250ms`, `30s`, `5m`, `1h`, `7d`. Money is in USD.
- A file with a line that begins `# >>> proxy.yaml` must also have one that begins `# <<< proxy.yaml`: a file
  that was cut short is refused.
"""


def manual() -> str:
    return "\n".join([HEAD, *_sections("", File)])


def _sections(path: str, section: type[BaseModel]) -> Iterator[str]:
    """A section's keys, then the sections in it."""
    if path:
        yield f"## {path}\n"
        if section.__doc__ and section.__doc__ != Section.__doc__:
            yield f"{section.__doc__}\n"
    yield from _table(section)
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        key = field.alias or name
        if inner is not None and not (inner is Limits and key != "global"):
            yield from _sections(_inside(path, key, field), inner)


def _inside(path: str, key: str, field: FieldInfo) -> str:
    if section_in(field.annotation) is Limits:
        return f"{path}.*"  # the four scopes have the same keys
    whole = f"{path}.{key}" if path else key
    annotation = str(field.annotation)
    if annotation.startswith("dict["):
        return f"{whole}.NAME"
    return f"{whole}[]" if annotation.startswith("tuple[") else whole


def _table(section: type[BaseModel]) -> Iterator[str]:
    properties = section.model_json_schema(by_alias=True).get("properties", {})
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for name, field in section.model_fields.items():
        key = field.alias or name
        value = "section" if section_in(field.annotation) else _value(properties[key])
        yield f"| `{key}` | {value} | {_default(field, properties[key])} | {_escaped(field.description or '')} |"
    yield ""


def _value(rule: Mapping[str, Any]) -> str:
    """What may be written, in a few words."""
    options = [option for option in rule.get("anyOf", [rule]) if option.get("type") != "null"]
    if _is_duration(rule):
        return "duration"
    return " or ".join(dict.fromkeys(filter(None, map(_option, options)))) or "anything"


def _option(option: Mapping[str, Any]) -> str:
    if "anyOf" in option:
        return _value(option)
    if "enum" in option:
        return ", ".join(f"`{word}`" for word in option["enum"])
    if "const" in option:
        return f"`{str(option['const']).lower()}`"
    if option.get("type") == "array":
        return f"list of {_value(option.get('items', {}))}"
    return {
        "string": "text",
        "boolean": "`true`, `false`",
        "integer": "whole number",
        "number": "number",
        "object": "mapping",
    }.get(str(option.get("type")), "")


def _is_duration(rule: Mapping[str, Any]) -> bool:
    return "(ms|s|m|h|d)" in str(rule.get("anyOf", ""))


def _default(field: FieldInfo, rule: Mapping[str, Any]) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return ""  # a section: its keys have the defaults
    match field.default:
        case None:
            return ""
        case bool():
            return f"`{str(field.default).lower()}`"
        case tuple() | list():
            return f"`[{', '.join(field.default)}]`"
        case dict():
            return "`{}`"
    if _is_duration(rule):
        return f"`{duration(field.default)}`"
    return (
        f"`{Decimal(str(field.default)).normalize():f}`"
        if isinstance(field.default, float)
        else f"`{field.default}`"
    )


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
