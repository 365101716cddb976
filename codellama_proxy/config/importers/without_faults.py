"""Remove the values that `check` would refuse from a generated configuration. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from codellama_proxy.config.problems import ConfigError
from codellama_proxy.config.validate import cross_field
from codellama_proxy.config.validate.messages import faults
from codellama_proxy.config.validate.partial import read_content
from codellama_proxy.config.yaml.document import Document, Path, parse
from codellama_proxy.config.yaml.substitution import UnsetError

Report = Callable[[Path, str], None]
"""Receives the path of a removed value and the reason."""
VITAL = ("name", "provider", "model", "mode")
"""Keys that define an entry: it is removed together with them."""
MAX_ROUNDS = 1000
"""Removing a value may make its section incomplete."""


def without_faults(made: dict[str, Any], write: Callable[[Mapping[str, Any]], str], report: Report) -> str:
    """Remove invalid values from `made` in place; returns its text. Raises `ConfigError` if it is unreadable."""
    for _ in range(MAX_ROUNDS):
        text = write(made)
        wrong = list(_wrong(parse(text.encode(), _nothing)))
        if not wrong:
            return text
        for path, why in sorted(wrong, key=lambda found: _last_first(found[0])):
            report(_take_out(made, path), why)
    raise ConfigError(())


def _nothing(name: str) -> str:
    raise UnsetError(f"{name} is not set")


def _wrong(document: Document) -> Iterator[tuple[Path, str]]:
    """Path and message of every error except unset variables. Raises `ConfigError`."""
    if document.problems:
        raise ConfigError(())
    content, error = read_content(document)
    if error is not None:
        yield from faults(document, error)
    if content is not None:
        for finding in cross_field.findings(*content):
            if finding.severity == "error":
                yield finding.path, finding.message


def _last_first(path: Path) -> tuple[Any, ...]:
    """Sort key: list items from the end, so that the indexes of the others do not change."""
    return tuple((0, -part, "") if isinstance(part, int) else (1, 0, part) for part in path)


def _take_out(made: dict[str, Any], path: Path) -> Path:
    """Remove the value, or the nearest enclosing optional one. Returns the removed path."""
    holders: list[Any] = [made]
    for part in path[:-1]:
        inner = _inner(holders[-1], part)
        if not isinstance(inner, dict | list):
            break
        holders.append(inner)
    for depth in range(min(len(holders), len(path)) - 1, -1, -1):
        part, holder = path[depth], holders[depth]
        vital = depth == 2 and path[0] == "models" and part in VITAL
        if vital or _inner(holder, part) is None:
            continue
        if depth == 0 and part == "models":
            break
        del holder[part]
        _sweep(holders[: depth + 1], path)
        return path[: depth + 1]
    made["models"] = []
    return ("models",)


def _sweep(holders: list[Any], path: Path) -> None:
    """Remove sections that became empty."""
    for depth in range(len(holders) - 1, 0, -1):
        if holders[depth] != {} or not isinstance(path[depth - 1], str):
            return
        del holders[depth - 1][path[depth - 1]]


def _inner(holder: Any, part: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(str(part))
    return holder[part] if isinstance(part, int) and part < len(holder) else None
