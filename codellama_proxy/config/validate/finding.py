"""What the checks of a configuration receive and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.schema import File
from codellama_proxy.config.yaml.document import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the value at `path`. The message never shows a value that may be a secret."""

    path: Path
    message: str
    severity: Literal["error", "warning"] = "error"
    with_path: bool = True
    """Whether the message is shown after the path, or says itself what it is about."""


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries that could be read, by their index in the file, and every name the file gives to one."""

    by_index: Mapping[int, Entry]
    names: tuple[str, ...]
    hidden: frozenset[Path] = frozenset()
    """Values no message may show."""
    unknown: frozenset[Path] = frozenset()
    """Values that are unset, or were refused: nothing is said of what depends on them."""

    def mode(self, index: int) -> str | None:
        """The entry's mode; `None` if it is unknown."""
        return None if ("models", index, "mode") in self.unknown else self.by_index[index].mode


class Content(NamedTuple):
    """What could be read of a file."""

    file: File
    entries: Entries
