"""`codellama-proxy database migrate|copy|check`: prepares a database, moves an installation, checks balances."""

from __future__ import annotations

import click

from codellama_proxy.cli.database import location, location_of, reading
from codellama_proxy.cli.options import Command, Group, database_option, json_option
from codellama_proxy.cli.output import answer, counted
from codellama_proxy.store import factory


@click.group(cls=Group)
def database() -> None:
    """Prepare, check or move the database."""


@database.command(cls=Command)
@database_option
@json_option
def migrate(database: str | None, as_json: bool) -> int:
    """Create the tables, or bring them to this version. Servers do this by themselves when they start."""
    place = location_of(database)
    applied = factory.migrate(place)
    done = f"{counted(len(applied), 'migration')} applied" if applied else "nothing had to be changed"
    return answer({"database": str(place), "applied": applied}, f"{place} is ready: {done}.", as_json)


@database.command(cls=Command)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@json_option
def copy(source: str, target: str, as_json: bool) -> int:
    """Copy an installation to an empty database: a file, or a postgresql:// address. No server may use either."""
    places = location(source), location(target)
    rows = factory.copy(*places)
    text = f"Copied {counted(sum(rows.values()), 'row')} from {places[0]} to {places[1]}, and compared their sums."
    return answer({"rows": rows}, text, as_json)


@database.command(cls=Command)
@database_option
@json_option
def check(database: str | None, as_json: bool) -> int:
    """Check that the database can be used and that every balance matches its requests. Exit code 1: it does not."""
    place = location_of(database)
    with reading(database) as db:
        differences = db.reconcile()
    data = {
        "database": str(place),
        "ok": not differences,
        "differences": [one._asdict() for one in differences],
    }
    wrong = f"{counted(len(differences), 'balance')} of {place} differ from their requests."
    text = wrong if differences else f"{place} can be used, and every balance matches its requests."
    answer(data, text, as_json)
    return 1 if differences else 0
