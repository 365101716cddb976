"""The mount table of Linux (proc_pid_mountinfo(5)), and two warnings that follow from it at start-up.

On other systems the table is empty, and there is no warning.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre"}
)


class Mount(NamedTuple):
    point: str
    filesystem: str
    """The type of its file system, such as `ext4`."""


def read_mountinfo() -> str:
    """The mount table as text; empty where there is none."""
    try:
        return MOUNTINFO.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return ""


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts in the order they were made. Malformed lines are skipped."""
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if dash and len(before) >= 5 and after:
            mounts.append(Mount(_unescape(before[4]), after[0]))
    return mounts


def _unescape(point: str) -> str:
    """The table writes a space as `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def filesystem_of(path: PurePosixPath, mountinfo: str) -> str | None:
    """The type of the file system that holds `path`: that of the deepest mount above it, the latest one."""
    filesystem, depth = None, 0
    for mount in parse_mountinfo(mountinfo):
        point = PurePosixPath(mount.point)
        if path.is_relative_to(point) and len(point.parts) >= depth:
            filesystem, depth = mount.filesystem, len(point.parts)
    return filesystem


def is_network(filesystem: str | None) -> bool:
    """Whether files of this type are on another machine."""
    return filesystem is not None and (filesystem in NETWORK_FILESYSTEMS or filesystem.startswith("fuse."))


def is_mount_point(path: Path, mountinfo: str) -> bool:
    """Whether the file itself is mounted, as `docker -v ./proxy.yaml:/app/proxy.yaml` does."""
    return str(path.absolute()) in {mount.point for mount in parse_mountinfo(mountinfo)}


def database_warning(database: Path) -> str | None:
    """A sentence if the database is on a network file system, where SQLite's write-ahead log is not safe."""
    filesystem = filesystem_of(PurePosixPath(database.resolve().parent), read_mountinfo())
    if not is_network(filesystem):
        return None
    return (
        f"{database} is on a network file system ({filesystem}), where SQLite may lose what it wrote: "
        "use a local disk"
    )


def config_warning(config: Path) -> str | None:
    """A sentence if changes of the file cannot arrive.

    Editors and ConfigMaps save by renaming, and a rename outside does not replace the file that is mounted.
    """
    if not is_mount_point(config, read_mountinfo()):
        return None
    return (
        f"{config} is mounted as a single file, so a save that renames a new file into its place never arrives; "
        "mount its directory instead"
    )
