"""The table of subcommands, and those that administer keys: `keys.py create`, `list`, `rotate` and so on."""

from __future__ import annotations

import re
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from codellama_proxy.cli import audit as changes
from codellama_proxy.cli import spend
from codellama_proxy.cli.command import (
    Command,
    CommandError,
    answer,
    change,
    ending,
    note,
    reading,
    table,
    without_passwords,
)
from codellama_proxy.core.types import Key
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.audit import CLI
from codellama_proxy.store.interfaces import KeySession
from codellama_proxy.store.key_fields import PREFIX_LENGTH, KeyChange, shown

ABOUT = "Administer keys on the database file."
UNSET = "none"

COLUMNS = (
    "key_id",
    "prefix",
    "project",
    "name",
    "state",
    "expires",
    "max_budget",
    "per",
    "rpm",
    "models",
)

Read = Callable[[str, str], Any]


def _whole(option: str, text: str) -> int:
    return key_values.count(option, int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text)


def _usd(option: str, text: str) -> int:
    try:
        return key_values.money(option, Decimal(text))
    except InvalidOperation:
        return key_values.money(option, text)


def _names(option: str, text: str) -> tuple[str, ...] | None:
    return key_values.models(option, [name.strip() for name in text.split(",")])


# option -> (field of the key, how its text is read, what help says)
OPTIONS: Mapping[str, tuple[str, Read, str]] = {
    "--name": ("name", key_values.name, "a few words for people"),
    "--expires": ("duration", key_values.duration, "lifetime from now: 30s, 10m, 1h, 30d"),
    "--models": ("models", _names, "names it may use, separated by commas; wildcards allowed"),
    "--max-budget": ("max_budget", _usd, "USD in a budget window"),
    "--budget-duration": ("budget_duration", key_values.budget_duration, "hour, day, week, month, 24h, 30d"),
    "--rpm": ("rpm_limit", _whole, "requests a minute"),
    "--tpm": ("tpm_limit", _whole, "tokens a minute"),
    "--parallel": ("max_parallel_requests", _whole, "requests at once"),
}


# --- the subcommands ---------------------------------------------------------------------------------------


def create(args: Namespace) -> int:
    wanted = _change(args, {"key_alias": key_values.alias("PROJECT", args.project)})
    with change(args, create=True) as db:
        key, secret = db.create_key(wanted, CLI, time.time())
    return _with_secret(args, key, secret, f"created {key.key_id} for the project {key.project}")


def list_keys(args: Namespace) -> int:
    with reading(args) as db:
        keys = db.keys(args.project)
    rows = [_row(key, time.time()) for key in keys]
    return answer(args, [shown(key) for key in keys], table(COLUMNS, rows))


def show(args: Namespace) -> int:
    with reading(args) as db:
        key = find_key(db, args.key)
    return answer(args, shown(key), _card(key))


def update(args: Namespace) -> int:
    moved = {} if args.project is None else {"key_alias": key_values.alias("--project", args.project)}
    wanted = _change(args, moved)
    if not wanted.values:
        raise CommandError("nothing to change was given", 2)
    with change(args) as db:
        key = db.update_key(find_key(db, args.key).key_id, wanted, CLI, time.time())
    return answer(args, shown(key), _card(key))


def block(args: Namespace) -> int:
    with change(args) as db:
        key = db.block_key(find_key(db, args.key).key_id, True, CLI, time.time())
    return answer(args, shown(key), f"blocked {key.key_id}")


def unblock(args: Namespace) -> int:
    with change(args) as db:
        key = db.block_key(find_key(db, args.key).key_id, False, CLI, time.time())
    return answer(args, shown(key), f"unblocked {key.key_id}")


def rotate(args: Namespace) -> int:
    overlap = 0.0 if args.overlap is None else key_values.duration("--overlap", args.overlap)
    with change(args) as db:
        key, secret = db.rotate_key(find_key(db, args.key).key_id, overlap, CLI, time.time())
    old = f"the old secret works for {args.overlap} more" if overlap else "the old secret is dead"
    return _with_secret(args, key, secret, f"rotated {key.key_id}: {old}")


def delete(args: Namespace) -> int:
    with change(args) as db:
        key = db.delete_key(find_key(db, args.key).key_id, CLI, time.time())
    return answer(args, {"key_id": key.key_id, "deleted": True}, f"deleted {key.key_id}")


# --- their arguments ---------------------------------------------------------------------------------------


def _key(parser: ArgumentParser) -> None:
    parser.add_argument("key", metavar="ID|PREFIX", help="a key_id, or how its secret begins")


def _values(parser: ArgumentParser, unset: str = "") -> None:
    for option, (field, _, text) in OPTIONS.items():
        parser.add_argument(option, dest=field, metavar="VALUE", help=text + unset)


def _of_create(parser: ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT", help="the project it belongs to")
    _values(parser)


def _of_update(parser: ArgumentParser) -> None:
    _key(parser)
    parser.add_argument("--project", metavar="VALUE", help="the project it belongs to from now on")
    _values(parser, f"; '{UNSET}' to unset")


def _of_list(parser: ArgumentParser) -> None:
    parser.add_argument("--project", metavar="PROJECT", help="only this project's")


def _of_rotate(parser: ArgumentParser) -> None:
    _key(parser)
    parser.add_argument("--overlap", metavar="24h", help="how long the old secret still works")


COMMANDS: tuple[Command, ...] = (
    Command("create", "make a key; its secret is printed once", _of_create, create),
    Command("list", "all keys", _of_list, list_keys),
    Command("show", "one key", _key, show),
    Command("update", "change what a key may do", _of_update, update),
    Command("block", "refuse a key until it is unblocked", _key, block),
    Command("unblock", "take a blocked key back", _key, unblock),
    Command("rotate", "a new secret for the same key", _of_rotate, rotate),
    Command("delete", "remove a key; what it spent stays on record", _key, delete),
    *spend.COMMANDS,
    changes.COMMAND,
)


# --- reading and showing -----------------------------------------------------------------------------------


def _change(args: Namespace, values: Mapping[str, Any]) -> KeyChange:
    given = {field: getattr(args, field) for field, _, _ in OPTIONS.values()}
    read = {
        field: None if given[field] == UNSET else reader(option, given[field])
        for option, (field, reader, _) in OPTIONS.items()
        if given[field] is not None
    }
    return KeyChange({**values, **read})


def find_key(db: KeySession, given: str) -> Key:
    """A key by its id, or by enough of the beginning of its secret."""
    if given.startswith("key_"):
        return db.key(given)
    prefix = given[:PREFIX_LENGTH]
    found = db.keys_by_prefix(prefix)
    if not found:
        raise CommandError(f"there is no key {prefix!r}")
    if len(found) > 1:
        raise CommandError(f"several keys begin with {prefix!r}")
    return found[0]


def _with_secret(args: Namespace, key: Key, secret: str, said: str) -> int:
    if not args.json:
        note(f"{said}. This is its secret; it is shown only now:")
    return answer(args, {"key": secret, **shown(key)}, secret)


def _card(key: Key) -> str:
    lines = {**shown(key), "state": _state(key, time.time())}
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {_text(value)}" for name, value in lines.items())


def _row(key: Key, now: float) -> tuple[Any, ...]:
    own = shown(key)
    return (
        key.key_id,
        key.prefix,
        key.project,
        key.name,
        _state(key, now),
        own["expires"],
        own["max_budget"],
        own["budget_duration"],
        own["rpm_limit"],
        None if key.models is None else ",".join(key.models),
    )


def _state(key: Key, now: float) -> str:
    if key.blocked:
        return "blocked"
    return "expired" if key.expires_at is not None and now >= key.expires_at else "active"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "-" if value is None or value == {} else str(value)


# --- the command -------------------------------------------------------------------------------------------


class _Parser(ArgumentParser):
    """Says in one sentence what is wrong, instead of the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {without_passwords(message)}\n")


def parser(commands: Sequence[Command] = COMMANDS, program: str = "keys.py") -> ArgumentParser:
    """The whole command line, one subcommand for each row of the table."""
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument(
        "--database", default=SUPPRESS, help="the database file (PROXY_DATABASE; data/proxy.db)"
    )
    common.add_argument("--json", action="store_true", default=SUPPRESS, help="print JSON")
    top = _Parser(prog=program, description=ABOUT, parents=[common], allow_abbrev=False)
    subcommands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in commands:
        sub = subcommands.add_parser(command.name, help=command.help, parents=[common], allow_abbrev=False)
        command.arguments(sub)
        sub.set_defaults(run=command.run)
    return top


def main(argv: Sequence[str] | None = None, program: str = "keys.py") -> int:
    """The exit code, as of every command."""
    return ending(program, lambda: parser(program=program).parse_args(argv, Namespace(json=False)))
