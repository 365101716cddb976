"""A container without an engine: process 1 of its own namespace, a read-only root, a user without any rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.dev.try_dockerfile import Build, environment, parse
from tests.support.processes import ROOT, end, until

USER = "10001"
DOCKERFILE = parse((ROOT / "Dockerfile").read_text())
UNPRIVILEGED = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
UNPRIVILEGED += ["--inh-caps=-all", "--bounding-set=-all"]
NAMESPACES = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child"]
READ_ONLY = """
mount --make-rprivate /
for place in "$1" "$2"; do mount --bind "$place" "$place"; done
mount -o remount,bind,ro /
mount -o remount,bind,ro "$1"
shift 2
exec "$@"
"""
"""Arguments: the root, the one place in it that stays writable, the command."""


def last(word: str) -> list[str]:
    return [one for one in DOCKERFILE if one.word == word][-1].command


class Image:
    """What the Dockerfile makes, below a directory that everybody may read."""

    def __init__(self, root: Path, python: str) -> None:
        self.build = Build(root, python, offline=True)
        self.done = [f"{one.word} {one.text}: {done}" for one, done in self.build.run(DOCKERFILE)]

    @property
    def root(self) -> Path:
        return self.build.root

    def env(self, **more: str) -> dict[str, str]:
        given = environment(DOCKERFILE)
        path = ":".join(map(self.build.inside, given.pop("PATH").split(":")))
        return {name: self.build.inside(value) for name, value in given.items()} | {"PATH": path} | more

    def run(self, *command: str, env: Mapping[str, str], unprivileged: bool = True) -> tuple[int, str]:
        """A command of the image, as its user; exit code and everything it said."""
        words = [self._found(command[0], env), *map(self.build.inside, command[1:])]
        done = subprocess.run(
            [*(UNPRIVILEGED if unprivileged else ()), *words],
            cwd=self.root / "app",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout

    @contextmanager
    def running(self, env: Mapping[str, str], log: Path) -> Iterator[Container]:
        """The image's entrypoint as a container's process 1."""
        command = [*last("ENTRYPOINT"), *last("CMD")]
        command[0] = self._found(command[0], env)
        places = [str(self.root), str(self.root / "data")]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*NAMESPACES, "sh", "-ec", READ_ONLY, "sh", *places, *UNPRIVILEGED, *command],
                cwd=self.root / "app",
                env={**env, "PATH": f"{env['PATH']}:/usr/sbin:/sbin"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                yield Container(process, log)
            finally:
                process.kill()
                process.wait(10)

    def _found(self, name: str, env: Mapping[str, str]) -> str:
        found = shutil.which(name, path=env["PATH"])
        assert found is not None, f"{name} is not in the image"
        return found


class Container:
    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def first(self) -> int:
        """Process 1, by the number it has outside."""
        outer = self._process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children")
        return int(until(lambda: children.read_text().split(), "the first process")[0])

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.first}/status").read_text().splitlines()
        return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, within: float = 10.0) -> int:
        return end(self._process, within=within)

    def log(self) -> str:
        return self._log.read_text()


def readable_python() -> str:
    """An interpreter of this version that the image's user can run, though we may be installed in a home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / f"python{version}"
    for candidate in (str(base), f"/usr/local/bin/python{version}", f"/usr/bin/python{version}"):
        if _works(candidate, version):
            return candidate
    pytest.skip(f"NOT TESTED: user {USER} can run no Python {version} here")


def _works(python: str, version: str) -> bool:
    code = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    # By way of a shell: setpriv itself still may what its command no longer may.
    command = [*UNPRIVILEGED, "sh", "-c", 'exec "$0" -c "$1"', python, code]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def permitted() -> Sequence[str]:
    """Why containers cannot be tried here, if they cannot."""
    missing = [tool for tool in ("unshare", "setpriv", "mount") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        return missing or ["root"]
    done = subprocess.run([*NAMESPACES, "mount", "--make-rprivate", "/"], capture_output=True, check=False)
    return [] if done.returncode == 0 else ["permission to make namespaces"]


@contextmanager
def built() -> Iterator[Image]:
    if why := permitted():
        pytest.skip(f"NOT TESTED: containers need {', '.join(why)}")
    python = readable_python()
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        Path(directory).chmod(0o755)
        yield Image(Path(directory), python)
