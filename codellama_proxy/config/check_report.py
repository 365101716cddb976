"""What `check` prints: everything that is wrong with a proxy.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codellama_proxy.config.load import examine
from codellama_proxy.config.problems import ConfigError, Problem
from codellama_proxy.config.yaml.document import MAX_BYTES
from codellama_proxy.config.yaml.substitution import read_regular, reason
from codellama_proxy.core.snapshot import Snapshot

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
            return f"{self.path}: {_count(errors, 'error')}"
        return f"{self.path} is valid: {_standing(self.snapshot)}"


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


def _json(report: Report) -> str:
    problems = [
        {
            "file": problem.source,
            **{key: value for key, value in problem._asdict().items() if key != "source"},
        }
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
