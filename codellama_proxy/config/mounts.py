"""Whether changes of a file can arrive at all: one that is mounted alone keeps showing the file it was."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def mounted_alone(path: Path, mountinfo: str) -> bool:
    """Whether the file itself is a mount point, as `docker -v ./proxy.yaml:/app/proxy.yaml` makes it.

    Editors and ConfigMaps save by renaming, and a rename outside replaces another file than the one mounted.
    """
    return str(path.absolute()) in {_unescaped(line.split()[4]) for line in mountinfo.splitlines() if line}


def _unescaped(point: str) -> str:
    """Spaces are `\\040` there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def warning(path: Path) -> str | None:
    """A sentence for the start, where there is something to say."""
    try:
        mounts = MOUNTS.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return None
    if not mounted_alone(path, mounts):
        return None
    return (
        f"{path} is mounted as a single file, so a save that renames a new file into its place never arrives; "
        "mount its directory instead"
    )
