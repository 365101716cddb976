"""Whether the database lies on a disk of this machine: elsewhere SQLite's log may lose what it was given."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from codellama_proxy.core.mountinfo import parse, read

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"})


def filesystem(place: PurePosixPath, mountinfo: str) -> str | None:
    """The type of the file system that holds `place`: of the deepest mount above it, the latest one."""
    found, depth = None, 0
    for mount in parse(mountinfo):
        point = PurePosixPath(mount.point)
        if place.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = mount.kind, len(point.parts)
    return found


def remote(kind: str | None) -> bool:
    return kind is not None and (kind in NETWORK or kind.startswith("fuse."))


def warning(database: Path) -> str | None:
    """A sentence for the start, where there is something to say."""
    kind = filesystem(PurePosixPath(database.resolve().parent), read())
    if not remote(kind):
        return None
    return f"{database} is on a network file system ({kind}), where SQLite may lose what it wrote: use a local disk"
