"""What is mounted where, as Linux tells it (proc_pid_mountinfo(5)); elsewhere nothing is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PLACE = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    point: str
    kind: str
    """The type of its file system."""


def read() -> str:
    try:
        return PLACE.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return ""


def parse(text: str) -> list[Mount]:
    """In the order they were made; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if dash and len(before) >= 5 and after:
            found.append(Mount(_unescaped(before[4]), after[0]))
    return found


def _unescaped(point: str) -> str:
    """Spaces are `\\040` there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
