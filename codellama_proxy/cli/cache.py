"""`codellama-proxy cache stats|purge`: the response cache. Running servers notice a purge within about a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from codellama_proxy.cache import file as answer_file
from codellama_proxy.cli.database import location_of
from codellama_proxy.cli.options import Group, database_option, json_option
from codellama_proxy.cli.output import answer, counted
from codellama_proxy.cli.run import CommandError
from codellama_proxy.core.text_table import table
from codellama_proxy.store import factory
from codellama_proxy.store.factory import inspect_session
from codellama_proxy.store.interfaces import CachePurge

COLUMNS = ("project", "model", "answers", "bytes", "oldest", "expires", "vectors")


@click.group(cls=Group)
def cache() -> None:
    """Show or purge the response cache."""


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    project = click.option("--project", help="Only answers to this project.")
    model = click.option("--model", help="Only answers of this model.")
    return project(model(database_option(json_option(function))))


@cache.command()
@_filters
def stats(project: str | None, model: str | None, database: str | None, as_json: bool) -> int:
    """Show what the cache contains."""
    with answer_file.existing(_checked_path(database)) as db:
        rows = answer_file.stats(db, project, model) if db is not None else []
    data = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    total = {"answers": sum(row["answers"] for row in data), "bytes": sum(row["bytes"] for row in data)}
    cells = [[*row[:4], _date(row[4]), _date(row[5]), row[6]] for row in rows]
    text = f"{table(COLUMNS, cells)}\n{counted(total['answers'], 'answer')}, {total['bytes']} bytes"
    return answer({"data": data, **total}, text if rows else "The cache is empty.", as_json)


@cache.command()
@_filters
def purge(project: str | None, model: str | None, database: str | None, as_json: bool) -> int:
    """Remove answers from the cache."""
    location = location_of(database)
    if not isinstance(location, Path):
        processes = factory.purge_caches(location, CachePurge(project, model))
        told = f"Told {counted(processes, 'process', 'processes')} to purge their caches."
        return answer({"processes": processes}, told, as_json)
    with answer_file.existing(_checked_path(database)) as db:
        count = answer_file.purge(db, project, model) if db is not None else 0
    return answer({"purged": count}, f"Purged {counted(count, 'answer')}.", as_json)


def _checked_path(database: str | None) -> Path:
    """The path of the database, which may be missing. Raises `StoreError` for a file that is not ours or damaged."""
    path = location_of(database)
    if not isinstance(path, Path):
        raise CommandError("with a database server, each process has a cache of its own, which ends with it")
    with inspect_session(path):
        return path


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
