"""Whether the database lies on a disk of this machine: elsewhere SQLite's log may lose what it was given."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"})


def filesystem(place: PurePosixPath, mountinfo: str) -> str | None:
    """The type of the file system that holds `place`: of the deepest mount above it, the latest one."""
    found, depth = None, 0
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        fields = left.split()
        if not dash or len(fields) < 5:
            continue
        point = PurePosixPath(_unescaped(fields[4]))
        if place.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = right.split()[0], len(point.parts)
    return found


def remote(kind: str | None) -> bool:
    return kind is not None and (kind in NETWORK or kind.startswith("fuse."))


def warning(database: Path) -> str | None:
    """A sentence for the start, where there is something to say."""
    try:
        mounts = MOUNTS.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return None
    kind = filesystem(PurePosixPath(database.resolve().parent), mounts)
    if not remote(kind):
        return None
    return f"{database} is on a network file system ({kind}), where SQLite may lose what it wrote: use a local disk"


def _unescaped(point: str) -> str:
    """Spaces are `\\040` there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
