"""`keys.py audit`: who changed which key, when and how."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from codellama_proxy.cli.command import Command, CommandError, answer, reading, table
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.audit import ACTIONS, AuditFilters

COLUMNS = ("created_at", "actor", "action", "key_id", "project", "changes")


def run(args: Namespace) -> int:
    """The newest first."""
    if args.last < 1:
        raise CommandError("--last: it is a number of changes, at least 1", 2)
    start = None if args.since is None else time.time() - key_values.duration("--since", args.since)
    wanted = AuditFilters(args.project, args.key, args.action, args.actor, start)
    with reading(args) as db:
        found = db.key_changes(wanted, args.last)
    rows = [[*(one[name] for name in COLUMNS[:-1]), _told(one["changes"])] for one in found]
    return answer(args, found, table(COLUMNS, rows))


def _told(changes: dict[str, list[Any]]) -> str:
    told = "; ".join(f"{field}: {_value(old)} -> {_value(new)}" for field, (old, new) in changes.items())
    # Others chose some of these words; none of them is a command for the terminal.
    return "".join(char if char.isprintable() else "?" for char in told)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--project", metavar="PROJECT", help="only keys of this project")
    parser.add_argument("--key", metavar="ID", help="only this key_id")
    parser.add_argument("--action", choices=ACTIONS, help="only these changes")
    parser.add_argument("--actor", metavar="WHO", help="only changes by master, cli, ui:...")
    parser.add_argument("--since", metavar="7d", help="only the last 30m, 1h, 7d; default: everything")
    parser.add_argument("--last", type=int, default=1000, metavar="N", help="how many at most; default 1000")


COMMAND = Command("audit", "who changed which key, when and how", arguments, run)
