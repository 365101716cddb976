"""`codellama-proxy cache stats|purge`: what is kept of answers, and forgetting it, which a server notices at once."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import Any

from codellama_proxy.cache import file as answer_file
from codellama_proxy.cli.command import Command, answer, database_path, table


def arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    for name, run, words in (("stats", stats, "what is kept"), ("purge", purge, "forget it")):
        action = actions.add_parser(name, help=words, description=words)
        action.add_argument("--project", help="only what this project asked")
        action.add_argument("--model", help="only what this model answered")
        action.add_argument("--database", help="the database file (PROXY_DATABASE; data/proxy.db)")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(act=run)


def run(args: Namespace) -> int:
    code: int = args.act(args)
    return code


def stats(args: Namespace) -> int:
    with answer_file.existing(database_path(args)) as db:
        rows = answer_file.stats(db, args.project, args.model) if db is not None else []
    names = ("project", "model", "answers", "bytes", "oldest", "expires", "vectors")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    total = {"answers": sum(one["answers"] for one in found), "bytes": sum(one["bytes"] for one in found)}
    shown = [[*row[:4], _date(row[4]), _date(row[5]), row[6]] for row in rows]
    text = f"{table(names, shown)}\n{total['answers']} answers, {total['bytes']} bytes"
    return answer(args, {"data": found, **total}, text if rows else "Nothing is kept.")


def purge(args: Namespace) -> int:
    with answer_file.existing(database_path(args)) as db:
        count = answer_file.purge(db, args.project, args.model) if db is not None else 0
    return answer(args, {"purged": count}, f"{count} answers are forgotten.")


def _date(seconds: Any) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


COMMAND = Command("cache", "tell what is kept of answers, or forget it", arguments, run)
