"""Checks of `aliases:`, the other names of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from codellama_proxy.config.problems import did_you_mean
from codellama_proxy.config.validate.finding import Entries, Finding
from codellama_proxy.config.yaml.document import Path


def findings(aliases: Mapping[str, str], entries: Entries) -> Iterator[Finding]:
    earlier: list[str] = []
    for alias, target in aliases.items():
        path: Path = ("aliases", alias)
        if alias in entries.names:
            yield Finding(path, "a model has this name, and its own name comes first")
        elif target not in entries.names and path not in entries.unknown:
            yield Finding(path, _wrong_target(target, path, aliases, entries))
        pattern = next((one for one in earlier if fnmatchcase(alias, one)), None)
        if pattern is not None:
            yield Finding(path, f'never used: "{pattern}" above it matches first', "warning")
        earlier.append(alias)


def _wrong_target(target: str, path: Path, aliases: Mapping[str, str], entries: Entries) -> str:
    """Models only: an alias of an alias is refused."""
    if path in entries.hidden:
        return "there is no such model"
    model = aliases.get(target)
    if model is not None:
        hint = f'; write "{model}"' if model in entries.names else ""
        return f'"{target}" is an alias itself, not a model{hint}'
    return f'there is no model "{target}"{did_you_mean(target, entries.names)}'
