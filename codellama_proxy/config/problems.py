"""Errors and warnings of a configuration, with line and column."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, NamedTuple


class Problem(NamedTuple):
    """One error or warning. The message never shows a value, which may be a secret."""

    line: int
    column: int
    message: str
    severity: Literal["error", "warning"] = "error"
    source: str = "proxy.yaml"

    def __str__(self) -> str:
        word = "warning: " if self.severity == "warning" else ""
        return f"{self.source}:{self.line}:{self.column}: {word}{self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` holds everything found, warnings too, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""
