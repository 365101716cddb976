#!/usr/bin/env python3
"""seed_tokenizer.py DIR: puts the vocabularies of cl100k_base and o200k_base where the proxy looks for them.

They come out of a package that ships the very same files, each checked by its hash. Without them the proxy
estimates tokens, so a failure is a warning and never stops an installation.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

PACKAGE = "llama-index-core==0.14.25"
INSIDE = "llama_index/core/_static/tiktoken_cache/"

# File name, as tiktoken wants it in its cache -> SHA-256.
FILES: Mapping[str, str] = {
    "9b5ad71b2ce5302211f9c61530b329a4922fc6a4": (
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    ),
    "fb374d419588a4632f3f557e76b4b70aebbca790": (
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    ),
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    try:
        missing = [name for name in FILES if not seeded(directory, name)]
        if missing:
            seed(directory, missing)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, KeyError, ValueError) as error:
        print(f"warning: no tokenizer files, so tokens are only estimated: {error}", file=sys.stderr)
    return 0


def seeded(directory: Path, name: str) -> bool:
    try:
        return right(name, (directory / name).read_bytes())
    except FileNotFoundError:
        return False


def right(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == FILES[name]


def seed(directory: Path, names: list[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as download, zipfile.ZipFile(fetch(Path(download))) as wheel:
        for name in names:
            content = wheel.read(INSIDE + name)
            if not right(name, content):
                raise ValueError(f"{PACKAGE} has another {name} than it should")
            put(directory / name, content)


def fetch(directory: Path) -> Path:
    """The wheel, downloaded but never installed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wanted = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(directory), PACKAGE]
    subprocess.run([*pip, *wanted], check=True, timeout=300)
    return next(directory.glob("*.whl"))


def put(path: Path, content: bytes) -> None:
    """Whole or not at all: a server may be starting."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
