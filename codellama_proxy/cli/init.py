"""`codellama-proxy init`: writes a starter configuration. Overwrites nothing, asks nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import click

from codellama_proxy.cli.options import Command
from codellama_proxy.cli.output import escaped, note, say
from codellama_proxy.cli.run import CommandError

STARTER: Mapping[str, str] = {"proxy.yaml": "proxy.yaml", ".env.example": "env.example"}
"""The files that are written, and their names in the package."""


@click.command(cls=Command)
@click.argument("directory", metavar="[DIR]", default=".", required=False)
def init(directory: str) -> None:
    """Write a starter proxy.yaml and .env.example to DIR.

    DIR: created if it is missing.  [default: .]

    Files that exist are kept. Exit code 1: both exist.
    """
    if "://" in directory:
        raise CommandError("DIR must be a directory, not an address", 2)
    place = Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    written = [name for name, source in STARTER.items() if _write(place / name, source)]
    for name in STARTER.keys() - set(written):
        note(f"{place / name} exists and was kept.")
    if not written:
        raise CommandError("nothing was written")
    say(escaped(f"Wrote {' and '.join(str(place / name) for name in written)}. Next:\n"))
    if place.resolve() != Path.cwd():
        say(escaped(f"  cd {shlex.quote(directory)}"))
    say("  cp .env.example .env            # then set a provider's key in it")
    say("  codellama-proxy check --online  # sends a small request to every model")
    say("  codellama-proxy serve")


def _write(path: Path, source: str) -> bool:
    """Writes a new file; returns whether there was none."""
    content = files(__package__).joinpath("starter", source).read_bytes()
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True
