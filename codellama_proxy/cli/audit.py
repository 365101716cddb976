"""`keys.py audit`: who changed which key, when and how."""

from __future__ import annotations

import json
from typing import Any

import click

from codellama_proxy.cli.database import reading
from codellama_proxy.cli.options import (
    Command,
    Whole,
    database_option,
    json_option,
    since_moment,
    since_option,
)
from codellama_proxy.cli.output import answer, printable
from codellama_proxy.core.text_table import table
from codellama_proxy.store.audit import ACTIONS, AuditFilters

COLUMNS = ("created_at", "actor", "action", "key_id", "project", "changes")


@click.command(cls=Command)
@click.option("--project", help="Only keys of this project.")
@click.option("--key", metavar="ID", help="Only this key_id.")
@click.option("--action", type=click.Choice(ACTIONS), help="Only these changes.")
@click.option("--actor", metavar="WHO", help="Only changes by master, cli, ui:...")
@since_option
@click.option("--last", type=Whole(min=1), metavar="N", default=1000, show_default=True, help="At most.")
@database_option
@json_option
def audit(  # noqa: PLR0913, PLR0917 - one for each option
    project: str | None,
    key: str | None,
    action: str | None,
    actor: str | None,
    since: str | None,
    last: int,
    database: str | None,
    as_json: bool,
) -> int:
    """Show changes of keys, the newest first."""
    wanted = AuditFilters(project, key, action, actor, since_moment(since))
    with reading(database) as db:
        entries = db.key_changes(wanted, last)
    rows = [[*(entry[name] for name in COLUMNS[:-1]), _described(entry["changes"])] for entry in entries]
    return answer(entries, table(COLUMNS, rows), as_json)


def _described(changes: dict[str, list[Any]]) -> str:
    return printable(
        "; ".join(f"{field}: {_value(old)} -> {_value(new)}" for field, (old, new) in changes.items())
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
