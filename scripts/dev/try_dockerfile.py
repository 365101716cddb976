#!/usr/bin/env python3
"""try_dockerfile.py [--offline] DIR: does what the Dockerfile says, instruction by instruction, without a container.

Paths of the image lie below DIR, `python` is this one. Both stages share DIR, so copies between them have to be
to the same place. `--offline` borrows the dependencies of this environment instead of fetching them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[2]
FETCHES = "--require-hashes"


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    text: str

    @property
    def command(self) -> list[str]:
        """The arguments of the exec form; anything else is an error, because it would need a shell."""
        text = self.text.partition("CMD ")[2] if self.word == "HEALTHCHECK" else self.text
        found: list[str] = json.loads(text)
        return found


def parse(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in whole.splitlines()]


def environment(instructions: Sequence[Instruction]) -> dict[str, str]:
    """What the last stage's ENV sets."""
    last = max(place for place, one in enumerate(instructions) if one.word == "FROM")
    pairs = " ".join(one.text for one in instructions[last:] if one.word == "ENV")
    return dict(pair.split("=", 1) for pair in pairs.split())


def admitted(ignore: str, path: str) -> bool:
    """Whether .dockerignore, which excludes everything and then names exceptions, lets this into the context."""
    exceptions = [line[1:].rstrip("/") for line in ignore.splitlines() if line.startswith("!")]
    return any(path == name or path.startswith(name + "/") for name in exceptions)


@dataclass(frozen=True, slots=True)
class Build:
    root: Path
    python: str = sys.executable
    offline: bool = False

    def inside(self, text: str) -> str:
        return re.sub(r"^/(?=(app|src|config|data)\b)", f"{self.root}/", text)

    def run(self, instructions: Sequence[Instruction]) -> Iterator[tuple[Instruction, str]]:
        """Each instruction with what was done about it."""
        directory = self.root
        for one in instructions:
            done = "nothing to do"
            if one.word == "WORKDIR":
                directory = Path(self.inside(one.text))
                directory.mkdir(parents=True, exist_ok=True)
                done = f"made {directory}"
            elif one.word == "COPY":
                done = self._copy(one.text.split())
            elif one.word == "RUN":
                done = self._run(one.command, directory)
            yield one, done

    def _copy(self, words: Sequence[str]) -> str:
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        if any(option.startswith("--from=") for option in options):
            return self._keep(sources, target, options)
        ignore = (CONTEXT / ".dockerignore").read_text()
        for source in sources:
            if not admitted(ignore, source):
                raise ValueError(f".dockerignore keeps {source} out")
            _copied(CONTEXT / source, Path(self.inside(target)))
        return "copied"

    def _keep(self, sources: Sequence[str], target: str, options: Sequence[str]) -> str:
        if list(sources) != [target] or not Path(self.inside(target)).exists():
            raise ValueError(f"{sources} is not what {target} was in the first stage")
        for option in options:
            if option.startswith("--chown=") and os.geteuid() == 0:
                owner, group = option.removeprefix("--chown=").split(":")
                os.chown(self.inside(target), int(owner), int(group))
        return "is there"

    def _run(self, command: list[str], directory: Path) -> str:
        if self.offline and FETCHES in command:
            return self._borrow(Path(self.inside(command[0])).parent.parent)
        words = [self.python if word == "python" else self.inside(word) for word in command]
        if words[0] == "install" and os.geteuid() != 0:  # only root gives files away
            words = [word for word in words if word not in ("-o", "-g", "10001")]
        subprocess.run(words, cwd=directory, check=True, timeout=600, stdout=subprocess.DEVNULL)
        return "ran"

    def _borrow(self, venv: Path) -> str:
        (packages,) = venv.glob("lib/python*/site-packages")
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        seeded = Path(sys.prefix) / "share" / "tiktoken"
        if seeded.is_dir():
            shutil.copytree(seeded, venv / "share" / "tiktoken")
        return "SKIPPED, it fetches: borrowed the dependencies of this environment"


def _copied(source: Path, target: Path) -> None:
    """As COPY does: a directory's content, or a file into a directory."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    offline = "--offline" in arguments
    directories = [word for word in arguments if word != "--offline"]
    if len(directories) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    build = Build(Path(directories[0]).resolve(), environ.get("PYTHON", sys.executable), offline)
    for one, done in build.run(parse((CONTEXT / "Dockerfile").read_text())):
        print(f"{one.word:<12} {one.text[:90]:<90}  {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
