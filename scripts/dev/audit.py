#!/usr/bin/env python3
"""audit.py [LOCK...]: is what this Python would import exactly what was locked and installed?

Every distribution has to be in a lock file (requirements.txt, requirements-dev.txt) with that version, every file of
it has to be as it was installed, every other file has to explain itself, and no .pth file may run code at each start.
Exit code 1 and a line for each thing that is not so.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lockfile import Pin, locked, normal

OURS = "codellama-proxy"
BOOTSTRAP = frozenset({"pip"})
"""Comes with Python itself, and installs the rest."""
LOCKS = ("requirements.txt", "requirements-dev.txt")


def unlocked(installed: Mapping[str, str], lock: Mapping[str, Pin]) -> Iterator[str]:
    for name, version in sorted(installed.items()):
        if name in BOOTSTRAP or name == OURS:
            continue
        if name not in lock:
            yield f"{name} {version} is in no lock file"
        elif lock[name].version != version:
            yield f"{name} is {version}, locked is {lock[name].version}"


def changed(distribution: metadata.Distribution) -> Iterator[str]:
    """Files that are not what was installed. Bytecode is made later and has no hash."""
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if file.hash is None or path.suffix == ".pyc":
            continue
        if not path.is_file():
            yield f"{distribution.name}: {file} is missing"
        elif _digest(path, file.hash.mode) != file.hash.value:
            yield f"{distribution.name}: {file} is not as it was installed"


def _digest(path: Path, mode: str) -> str:
    content = hashlib.new(mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def strays(packages: Path, distributions: Sequence[metadata.Distribution]) -> Iterator[str]:
    """What lies where imports are looked for and belongs to nothing."""
    known = {Path(str(one.locate_file(file))).resolve() for one in distributions for file in one.files or ()}
    tops = {path.relative_to(packages).parts[0] for path in known if path.is_relative_to(packages)}
    for path in sorted(packages.iterdir()):
        if path.name not in tops and path.name != "__pycache__":
            yield f"{path.name} belongs to no distribution"


def executable(packages: Path) -> Iterator[str]:
    """`.pth` files whose lines are run, not added to the path: whatever else is checked comes too late for them."""
    for path in sorted(packages.glob("*.pth")):
        lines = path.read_text("utf-8", "replace").splitlines()
        if any(line.startswith(("import ", "import\t")) for line in lines):
            yield f"{path.name} runs code whenever Python starts"


def findings(packages: Path, lock: Mapping[str, Pin]) -> Iterator[str]:
    distributions = list(metadata.distributions(path=[str(packages)]))
    yield from unlocked({normal(one.name): one.version for one in distributions}, lock)
    for one in distributions:
        yield from changed(one)
    yield from strays(packages.resolve(), distributions)
    yield from executable(packages)


def main(arguments: Sequence[str]) -> int:
    lock = {name: pin for file in arguments or LOCKS for name, pin in locked(file).items()}
    places = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    found = [finding for place in sorted(places) for finding in findings(place, lock)]
    for finding in found:
        print(finding)
    if not found:
        print(f"ok: {', '.join(map(str, sorted(places)))}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
