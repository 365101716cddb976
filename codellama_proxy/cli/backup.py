"""`codellama-proxy backup` and `restore`: the database into one file, at any time, and back."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from codellama_proxy.cli.command import Command, database_path, note, say
from codellama_proxy.store import factory
from codellama_proxy.store.location import database_file


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", help="the copy")
    parser.add_argument("--database", help="the database file (PROXY_DATABASE; data/proxy.db)")


def backup(args: Namespace) -> int:
    source = database_path(args)
    size = factory.backup(source, database_file(args.file))
    say(f"{source} is copied to {args.file}: {size} bytes, checked.")
    return 0


def restore(args: Namespace) -> int:
    database = database_path(args)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = factory.restore(database_file(args.file), database, moment)
    say(f"{args.file} is now {database}.")
    if aside is not None:
        note(f"The one before it is {aside}.")
    return 0


BACKUP = Command("backup", "copy the database to a new file, while the server runs", arguments, backup)
RESTORE = Command(
    "restore", "put a copy in the database's place; the server must not run", arguments, restore
)
