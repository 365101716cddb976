"""Whether changes of a file can arrive at all: one that is mounted alone keeps showing the file it was."""

from __future__ import annotations

from pathlib import Path

from codellama_proxy.core.mountinfo import parse, read


def mounted_alone(path: Path, mountinfo: str) -> bool:
    """Whether the file itself is a mount point, as `docker -v ./proxy.yaml:/app/proxy.yaml` makes it.

    Editors and ConfigMaps save by renaming, and a rename outside replaces another file than the one mounted.
    """
    return str(path.absolute()) in {mount.point for mount in parse(mountinfo)}


def warning(path: Path) -> str | None:
    """A sentence for the start, where there is something to say."""
    if not mounted_alone(path, read()):
        return None
    return (
        f"{path} is mounted as a single file, so a save that renames a new file into its place never arrives; "
        "mount its directory instead"
    )
