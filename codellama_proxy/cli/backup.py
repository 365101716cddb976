"""`codellama-proxy backup` and `restore`: copy the database to one file while the server runs, and back."""

from __future__ import annotations

import time

import click

from codellama_proxy.cli.database import location_of
from codellama_proxy.cli.options import Command, database_option
from codellama_proxy.cli.output import note, say
from codellama_proxy.store import factory
from codellama_proxy.store.location import database_file


@click.command(cls=Command)
@click.argument("file")
@database_option
def backup(file: str, database: str | None) -> None:
    """Copy the database to FILE, which must not exist. The server may run."""
    source = location_of(database)
    size = factory.backup(source, database_file(file))
    say(f"Copied {source} to {file} and verified the copy ({size} bytes).")


@click.command(cls=Command)
@click.argument("file")
@database_option
def restore(file: str, database: str | None) -> None:
    """Replace the database with the copy in FILE. The server must not run."""
    target = location_of(database)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = factory.restore(database_file(file), target, moment)
    say(f"Restored {target} from {file}.")
    if aside is not None:
        note(f"The previous database is kept as {aside}.")
