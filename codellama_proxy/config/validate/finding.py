"""What is noticed about a configuration that can be read, and what it is noticed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.yaml.document import Path


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    message: str
    severity: Literal["error", "warning"] = "error"


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
        return None if ("models", index, "mode") in self.unknown else self.by_index[index].mode
