"""The input and output of the configuration checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.schema import File
from codellama_proxy.config.yaml.document import Path


class Finding(NamedTuple):
    """An error or warning about the value at `path`. The message shows no value that may be a secret."""

    path: Path
    message: str
    severity: Literal["error", "warning"] = "error"
    with_path: bool = True
    """Whether the path is shown before the message; `False` if the message names its subject."""


class Entries(NamedTuple):
    """The readable entries, by their index in the file, and all names of entries."""

    by_index: Mapping[int, Entry]
    names: tuple[str, ...]
    hidden: frozenset[Path] = frozenset()
    """Values that messages must not show."""
    unknown: frozenset[Path] = frozenset()
    """Unset or refused values: checks that depend on them are skipped."""

    def mode(self, index: int) -> str | None:
        """The entry's mode; `None` if it is unknown."""
        return None if ("models", index, "mode") in self.unknown else self.by_index[index].mode


class Content(NamedTuple):
    """The readable part of a file."""

    file: File
    entries: Entries
