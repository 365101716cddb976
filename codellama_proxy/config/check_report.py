"""What `check` and `schema` say: everything that is wrong with a proxy.yaml, and what an editor should know of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from codellama_proxy.config.load import examine
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.schema import File
from codellama_proxy.config.section import Section
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.core.snapshot import Snapshot

TITLE = "codellama-proxy: proxy.yaml"

MAY_BE_FALSE = {part.__name__ for part in Section.__subclasses__() if part.off is not None} | {"Semantic"}
"""Sections in whose place `false` may stand."""

Form = Literal["text", "json", "github"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one file; `snapshot` is what a server would run with, if it could."""

    path: Path
    problems: tuple[Problem, ...]
    snapshot: Snapshot | None = None

    @property
    def code(self) -> int:
        return 1 if self.snapshot is None else 0

    @property
    def verdict(self) -> str:
        if self.snapshot is None:
            errors = sum(problem.severity == "error" for problem in self.problems)
            return f"{self.path} is not good: {_count(errors, 'problem')}."
        return f"{self.path} is good: {_standing(self.snapshot)}."


def inspect(path: Path, environ: Mapping[str, str], *, implemented: frozenset[str]) -> Report:
    """The whole file, as a start would read it."""
    try:
        text = read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        return Report(path, (Problem(1, 1, f"cannot be read: {reason(error)}", source=str(path)),))
    try:
        loaded = examine(text, environ, source=str(path), implemented=implemented)
    except ConfigError as error:
        return Report(path, error.problems)
    return Report(path, loaded.warnings, loaded.snapshot)


def printed(report: Report, form: Form = "text") -> list[str]:
    """The lines that `check` prints."""
    if form == "json":
        return [_json(report)]
    if form == "github":
        return [_annotation(problem) for problem in report.problems]
    return [*map(str, report.problems), report.verdict]


def check(path: Path, environ: Mapping[str, str], *, implemented: frozenset[str]) -> tuple[int, list[str]]:
    """The exit code, and the lines to print: every problem, then how it looks altogether."""
    report = inspect(path, environ, implemented=implemented)
    return report.code, printed(report)


def _json(report: Report) -> str:
    problems = [
        {"file": problem.source, **{key: value for key, value in asdict(problem).items() if key != "source"}}
        for problem in report.problems
    ]
    summary = {"file": str(report.path), "good": report.snapshot is not None}
    return json.dumps({**summary, "problems": problems}, ensure_ascii=False)


def _annotation(problem: Problem) -> str:
    """A line that GitHub's runner shows at its place in the file."""
    place = {"file": problem.source, "line": problem.line, "col": problem.column, "title": "proxy.yaml"}
    fields = ",".join(f"{name}={_escaped(str(value), ',:')}" for name, value in place.items())
    return f"::{problem.severity} {fields}::{_escaped(problem.message)}"


def _escaped(text: str, more: Sequence[str] = "") -> str:
    for char in ("%", "\r", "\n", *more):
        text = text.replace(char, f"%{ord(char):02X}")
    return text


def _standing(snapshot: Snapshot) -> str:
    disabled = len(snapshot.disabled)
    entries = "entry" if disabled == 1 else "entries"
    return f"{_count(len(snapshot.models), 'model')} ready, {disabled} {entries} disabled"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
