"""The readable part of an invalid file, so that one run reports all of its errors. Pure."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from codellama_proxy.config.schema import File
from codellama_proxy.config.validate.finding import Content, Entries
from codellama_proxy.config.yaml.document import Document, Path

MAX_PASSES = 10
"""Removing a value may make its section incomplete; sections are not nested deeper than this."""
ANY_PROVIDER = "openai_compatible"


class _Rest(NamedTuple):
    file: File
    indexes: tuple[int, ...]
    """Positions of its entries in the file."""
    refused: frozenset[Path] = frozenset()
    """Removed or replaced values; their replacements have no meaning."""


def read_content(document: Document) -> tuple[Content | None, ValidationError | None]:
    """The readable part of a document whose root is a mapping, and pydantic's error if there is one."""
    try:
        file = File.model_validate(document.root)
    except ValidationError as error:
        rest = _rest_of(document.root)
        return None if rest is None else _content(rest, document), error
    return _content(_Rest(file, tuple(range(len(file.models)))), document), None


def _content(rest: _Rest, document: Document) -> Content:
    models = document.root.get("models")
    written = models if isinstance(models, list) else []
    names = (entry.get("name") for entry in written if isinstance(entry, dict))
    entries = Entries(
        by_index=dict(zip(rest.indexes, rest.file.models, strict=True)),
        names=tuple(str(name) for name in names if name is not None),
        hidden=frozenset(document.substituted),
        unknown=frozenset(document.missing) | rest.refused,
    )
    return Content(rest.file, entries)


def _rest_of(root: dict[str, Any]) -> _Rest | None:
    """The file without the refused values."""
    rest = copy.deepcopy(root)
    written = rest.get("models")
    entries = written if isinstance(written, list) else []
    indexes = tuple(index for index, entry in enumerate(entries) if isinstance(entry, dict))
    rest["models"] = [entries[index] for index in indexes]
    refused: set[Path] = set()
    for _ in range(MAX_PASSES):
        try:
            return _Rest(File.model_validate(rest), indexes, frozenset(refused))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                refused.add(_in_file(_refuse(rest, detail), indexes))
    return None


def _refuse(rest: dict[str, Any], detail: ErrorDetails) -> Path:
    """Remove invalid or incomplete values; an entry is kept, whatever its errors."""
    loc: Path = detail["loc"]
    if _in_entry(loc) and len(loc) == 3 and loc[2] in ("name", "provider"):
        rest["models"][loc[1]][loc[2]] = ANY_PROVIDER if loc[2] == "provider" else f"unnamed/{loc[1]}"
        return loc
    outer = detail["type"] == "missing" or loc[-1] == "[key]"
    return _take_out(rest, loc[:-1] if outer else loc)


def _in_file(path: Path, indexes: tuple[int, ...]) -> Path:
    return ("models", indexes[int(path[1])], *path[2:]) if _in_entry(path) else path


def _in_entry(path: Path) -> bool:
    return path[:1] == ("models",) and len(path) > 2


def _take_out(rest: Any, path: Path) -> Path:
    """Remove the whole list of an invalid item, because indexes must not shift. Returns the removed path."""
    holder: Any = rest
    for place, part in enumerate(path):
        after = path[place + 1] if place + 1 < len(path) else None
        entries = path[: place + 1] == ("models",)
        if isinstance(holder, dict) and (after is None or (isinstance(after, int) and not entries)):
            holder.pop(part, None)
            return path[: place + 1]
        holder = holder[int(part)] if isinstance(holder, list) else holder.get(part, {})
    return path
