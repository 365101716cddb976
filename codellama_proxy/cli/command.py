"""What every subcommand shares: its place in the table, the database, and how its answer is printed."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from codellama_proxy.store.database import StoreError, connect
from codellama_proxy.store.migrate import migrate, shipped

DEFAULT_DATABASE = "data/proxy.db"


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand: `run` gets the parsed arguments and returns the exit code."""

    name: str
    help: str
    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]


class CommandError(Exception):
    """One sentence for stderr. Exit code 1: it cannot be done; 2: it was asked for wrongly."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def database_path(args: Namespace, environ: Mapping[str, str] = os.environ) -> Path:
    """`--database`, else `PROXY_DATABASE` from the environment or `.env`, else the server's default."""
    given = getattr(args, "database", None) or environ.get("PROXY_DATABASE")
    named = given or dotenv_values(".env").get("PROXY_DATABASE") or DEFAULT_DATABASE
    if "://" in named:
        raise CommandError(f"the database must be a file, not {named.partition('://')[0]}://", 2)
    return Path(named)


@contextmanager
def database(args: Namespace) -> Iterator[sqlite3.Connection]:
    """A short-lived connection to the database, made and migrated if need be; it never checkpoints."""
    path = database_path(args)
    try:
        with closing(connect(path, create=True)) as db:
            migrate(db, shipped())
            yield db
    except sqlite3.Error as error:
        raise StoreError(f"cannot use the database {path}: {error}") from error


@contextmanager
def change(args: Namespace) -> Iterator[sqlite3.Connection]:
    """The database inside one transaction, which is taken back if anything fails."""
    with database(args) as db:
        db.execute("begin immediate")
        try:
            yield db
            db.execute("commit")
        except BaseException:
            if db.in_transaction:  # a full disk has already rolled back
                db.execute("rollback")
            raise


def answer(args: Namespace, data: Any, text: str) -> int:
    """Print the answer on stdout, as JSON if that was asked for."""
    say(json.dumps(data, ensure_ascii=False) if args.json else text)
    return 0


def say(text: str) -> None:
    """Print a part of the answer on stdout."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `| head` has had enough; what is left in the buffer must not fail again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def note(text: str) -> None:
    """Tell the person something that is not the answer."""
    sys.stderr.write(text + "\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligned columns under upper-case heads; `None` is a dash."""
    cells = [[head.upper() for head in columns]]
    cells += [["-" if value is None else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
    return "\n".join("  ".join(row).rstrip() for row in padded)
