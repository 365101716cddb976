"""What requirements.txt says: names, versions, hashes, and who wants each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s\\]+)(?: ; (.+?))?(?: \\)?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"#(?: +via)? +([A-Za-z0-9._-]+)(?: \(.*\))?$")


@dataclass(frozen=True, slots=True)
class Pin:
    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> Iterator[Pin]:
    """Raises `ValueError` for what is not pinned by version and hash."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", "\n" + text):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if not lines or lines[0].startswith("#"):
            continue
        found, hashes = _PIN.match(lines[0]), tuple(_HASH.findall(block))
        if found is None or not hashes:
            raise ValueError(f"not pinned by version and hash: {lines[0]}")
        via = (match[1] for line in lines if (match := _VIA.match(line)))
        wanted_by = tuple(normal(name) for name in via if name != "via")
        yield Pin(normal(found[1]), found[2], found[3], hashes, wanted_by)


def locked(name: str = "requirements.txt") -> dict[str, Pin]:
    return {pin.name: pin for pin in pins((ROOT / name).read_text("utf-8"))}
