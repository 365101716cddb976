"""Entries of the configuration that are disabled."""

from __future__ import annotations

from collections.abc import Iterator

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.validate.finding import Entries, Finding
from codellama_proxy.config.yaml.document import Document, Path
from codellama_proxy.providers.registry import UNSUPPORTED_BY_MODE


def unsupported(entry: Entry, implemented: frozenset[str]) -> str | None:
    """Why the entry is unusable even with an API key; `None` if it is usable."""
    if entry.provider not in implemented:
        return f"provider {entry.provider} is not available in this version"
    if entry.provider in UNSUPPORTED_BY_MODE[entry.mode]:
        return f"provider {entry.provider} has no mode {entry.mode}"
    return None


def findings(document: Document, entries: Entries, implemented: frozenset[str]) -> Iterator[Finding]:
    """A warning for each entry that is disabled."""
    for index, entry in entries.by_index.items():
        path: Path = ("models", index)
        known = not {(*path, "provider"), (*path, "mode")} & entries.unknown
        why = (unsupported(entry, implemented) if known else None) or document.missing.get((*path, "api_key"))
        if why:
            name = f"models[{index}]" if (*path, "name") in entries.unknown else entry.name
            yield Finding((*path, "api_key"), f"{name} is disabled: {why}", "warning", with_path=False)
