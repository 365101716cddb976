"""`codellama-proxy keys`, also `scripts/keys.py`: administers keys."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from codellama_proxy.cli import audit as changes
from codellama_proxy.cli import spend
from codellama_proxy.cli.database import change, reading
from codellama_proxy.cli.options import Group, database_option, json_option
from codellama_proxy.cli.output import answer, note
from codellama_proxy.cli.run import CommandError, run
from codellama_proxy.core.text_table import table
from codellama_proxy.core.types import Key
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.audit import CLI
from codellama_proxy.store.interfaces import KeySession
from codellama_proxy.store.key_fields import PREFIX_LENGTH, KeyChange, shown

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


def _names(option: str, text: str) -> tuple[str, ...] | None:
    return key_values.models(option, [name.strip() for name in text.split(",")])


# option -> (field of the key, reader of its text, help)
OPTIONS: Mapping[str, tuple[str, Read, str]] = {
    "--name": ("name", key_values.name, "A label"),
    "--expires": ("duration", key_values.duration, "Lifetime from now: 30s, 10m, 1h, 30d"),
    "--models": ("models", _names, "Models the key may use, separated by commas; wildcards allowed"),
    "--max-budget": ("max_budget", key_values.written_money, "USD per budget window"),
    "--budget-duration": (
        "budget_duration",
        key_values.budget_duration,
        "Window: hour, day, week, month, 24h, 30d",
    ),
    "--rpm": ("rpm_limit", _whole, "Requests per minute"),
    "--tpm": ("tpm_limit", _whole, "Tokens per minute"),
    "--parallel": ("max_parallel_requests", _whole, "Requests in parallel"),
}


key_argument = click.argument("key", metavar="ID|PREFIX")


def key_fields(unset: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option for each field of a key."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option, (field, _, text) in reversed(list(OPTIONS.items())):
            function = click.option(option, field, metavar="VALUE", help=f"{text}{unset}.")(function)
        return function

    return decorate


# --- the commands ------------------------------------------------------------------------------------------


@click.group(cls=Group)
@click.option("--database", metavar="FILE", help="Database, for every command.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys(database: str | None, as_json: bool) -> None:
    """Administer keys in the database; read the ledger."""
    del database, as_json  # the commands read them


@keys.command()
@click.argument("project")
@key_fields()
@database_option
@json_option
def create(project: str, database: str | None, as_json: bool, **fields: str | None) -> int:
    """Create a key; its secret is printed once."""
    wanted = _change(fields, {"key_alias": key_values.alias("PROJECT", project)})
    with change(database, create=True) as db:
        key, secret = db.create_key(wanted, CLI, time.time())
    _warn_of_unknown_models(wanted)
    return _with_secret(key, secret, f"created {key.key_id} for the project {key.project}", as_json)


@keys.command("list")
@click.option("--project", help="Only keys of this project.")
@database_option
@json_option
def list_keys(project: str | None, database: str | None, as_json: bool) -> int:
    """List all keys."""
    with reading(database) as db:
        found = db.keys(project)
    rows = [_row(key, time.time()) for key in found]
    return answer([shown(key) for key in found], table(COLUMNS, rows), as_json)


@keys.command()
@key_argument
@database_option
@json_option
def show(key: str, database: str | None, as_json: bool) -> int:
    """Show one key."""
    with reading(database) as db:
        found = find_key(db, key)
    return answer(shown(found), _card(found), as_json)


@keys.command()
@key_argument
@click.option("--project", metavar="VALUE", help="The project the key belongs to from now on.")
@key_fields(f"; '{UNSET}' to unset")
@database_option
@json_option
def update(key: str, project: str | None, database: str | None, as_json: bool, **fields: str | None) -> int:
    """Change what a key may do."""
    moved = {} if project is None else {"key_alias": key_values.alias("--project", project)}
    wanted = _change(fields, moved)
    if not wanted.values:
        raise CommandError("nothing to change was given", 2)
    with change(database) as db:
        changed = db.update_key(find_key(db, key).key_id, wanted, CLI, time.time())
    _warn_of_unknown_models(wanted)
    return answer(shown(changed), _card(changed), as_json)


@keys.command()
@key_argument
@database_option
@json_option
def block(key: str, database: str | None, as_json: bool) -> int:
    """Refuse a key until it is unblocked."""
    with change(database) as db:
        blocked = db.block_key(find_key(db, key).key_id, True, CLI, time.time())
    return answer(shown(blocked), f"blocked {blocked.key_id}", as_json)


@keys.command()
@key_argument
@database_option
@json_option
def unblock(key: str, database: str | None, as_json: bool) -> int:
    """Accept a blocked key again."""
    with change(database) as db:
        unblocked = db.block_key(find_key(db, key).key_id, False, CLI, time.time())
    return answer(shown(unblocked), f"unblocked {unblocked.key_id}", as_json)


@keys.command()
@key_argument
@click.option("--overlap", metavar="24h", help="How long the old secret still works.")
@database_option
@json_option
def rotate(key: str, overlap: str | None, database: str | None, as_json: bool) -> int:
    """Replace the secret of a key."""
    seconds = 0.0 if overlap is None else key_values.duration("--overlap", overlap)
    with change(database) as db:
        rotated, secret = db.rotate_key(find_key(db, key).key_id, seconds, CLI, time.time())
    old = f"the old secret works for {overlap} more" if seconds else "the old secret no longer works"
    return _with_secret(rotated, secret, f"rotated {rotated.key_id}: {old}", as_json)


@keys.command()
@key_argument
@database_option
@json_option
def delete(key: str, database: str | None, as_json: bool) -> int:
    """Remove a key; its requests and their cost stay in the ledger."""
    with change(database) as db:
        deleted = db.delete_key(find_key(db, key).key_id, CLI, time.time())
    return answer({"key_id": deleted.key_id, "deleted": True}, f"deleted {deleted.key_id}", as_json)


for command in (spend.spend, spend.logs, spend.reconcile, changes.audit):
    keys.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """`scripts/keys.py`: the same commands under a shorter name. Returns the exit code."""
    return run(keys, "keys.py", sys.argv[1:] if argv is None else argv)


# --- reading and showing -----------------------------------------------------------------------------------


def _change(given: Mapping[str, str | None], values: Mapping[str, Any]) -> KeyChange:
    read = {
        field: None if text == UNSET else reader(option, text)
        for option, (field, reader, _) in OPTIONS.items()
        if (text := given[field]) is not None
    }
    return KeyChange({**values, **read})


def _warn_of_unknown_models(wanted: KeyChange) -> None:
    if names := wanted.values.get("models"):
        from codellama_proxy.cli.model_names import warn_of_unknown_models  # noqa: PLC0415 - reads proxy.yaml

        warn_of_unknown_models(names)


def find_key(db: KeySession, given: str) -> Key:
    """A key by its id or by a unique prefix of its secret. Raises `CommandError`, `ProxyError`."""
    if given.startswith("key_"):
        return db.key(given)
    prefix = given[:PREFIX_LENGTH]
    found = db.keys_by_prefix(prefix)
    if not found:
        raise CommandError(f"there is no key {prefix!r}; give a KEY_ID or PREFIX as listed by `keys list`")
    if len(found) > 1:
        raise CommandError(f"several keys begin with {prefix!r}")
    return found[0]


def _with_secret(key: Key, secret: str, done: str, as_json: bool) -> int:
    if not as_json:
        note(f"{done}. This is its secret; it is shown only now:")
    return answer({"key": secret, **shown(key)}, secret, as_json)


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
