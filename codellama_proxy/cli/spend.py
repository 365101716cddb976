"""The commands that read the ledger: `keys.py spend`, `logs` and `reconcile`."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from typing import Any

import click

from codellama_proxy.cli.database import reading
from codellama_proxy.cli.followed import PAGE_ROWS, FollowedLog
from codellama_proxy.cli.options import (
    Command,
    Whole,
    database_option,
    json_option,
    since_moment,
    since_option,
)
from codellama_proxy.cli.output import answer, counted, printable
from codellama_proxy.cli.run import CommandError
from codellama_proxy.core.clock import shown_ms
from codellama_proxy.core.money import usd
from codellama_proxy.core.text_table import table
from codellama_proxy.store.interfaces import Difference, LedgerSession
from codellama_proxy.store.reports import GROUPS, Filters

POLL_SECONDS = 0.5


# --- the subcommands ---------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.option(
    "--by", default="project", show_default=True, metavar="GROUPS", help=f"Any of {', '.join(GROUPS)}."
)
@since_option
@database_option
@json_option
def spend(by: str, since: str | None, database: str | None, as_json: bool) -> int:
    """Show the cost of requests, grouped."""
    groups = [name.strip() for name in by.split(",")]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise CommandError(f"--by: {unknown[0]} is not one of {', '.join(GROUPS)}", 2)
    filters = Filters(start=since_moment(since))
    with reading(database) as db:
        data = db.spend(groups, filters)
    return answer(data, _spend_table([name for name in GROUPS if name in groups], data), as_json)


@click.command(cls=Command)
@database_option
@json_option
def reconcile(database: str | None, as_json: bool) -> int:
    """Check every balance against its requests.

    Exit code 1: a balance does not match its requests.
    """
    with reading(database) as db:
        differences = db.reconcile()
        uncertain = db.inexact()
    bases = [
        {"basis": basis, "requests": requests, "cost_usd": usd(cost)} for basis, requests, cost in uncertain
    ]
    data = {"ok": not differences, "differences": [one._asdict() for one in differences], "not_exact": bases}
    answer(data, _reconciled(differences, bases), as_json)
    return 1 if differences else 0


@click.command(cls=Command)
@click.option("--follow", is_flag=True, help="Continue with requests that end from now on.")
@click.option(
    "--last",
    type=Whole(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="How many to begin with.",
)
@database_option
@json_option
def logs(follow: bool, last: int, database: str | None, as_json: bool) -> None:
    """Show requests, oldest first."""
    with reading(database) as db:
        seq = db.position(last)
        if follow:
            with suppress(KeyboardInterrupt):
                _follow(db, seq, as_json)
            return
        while rows := db.logs_after(seq, PAGE_ROWS):
            for seq, row in rows:  # noqa: B007 - the next page begins after the last row
                _print(row, as_json)


def _follow(db: LedgerSession, seq: int, as_json: bool) -> None:
    """Prints each request once, when it has ended. A running request does not delay others."""
    followed = FollowedLog(db, seq)
    running: list[str] = []
    while True:
        ended = [row for row in (db.log(request_id) for request_id in running) if row["status"] != "held"]
        fresh, more = followed.fresh()
        ended += [row for row in fresh if row["status"] != "held"]
        for row in ended:
            _print(row, as_json)
        sys.stdout.flush()
        done = {row["request_id"] for row in ended}
        running = [name for name in (*running, *(row["request_id"] for row in fresh)) if name not in done]
        if not more:
            time.sleep(POLL_SECONDS)


# --- showing -----------------------------------------------------------------------------------------------


def _spend_table(groups: list[str], data: dict[str, Any]) -> str:
    columns = [*groups, "requests", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_requests"]
    rows = [
        [_money(group[name]) if name == "cost_usd" else group[name] for name in columns]
        for group in data["data"]
    ]
    total = f"{counted(data['total_requests'], 'request')}, {_money(data['total_cost_usd'])} USD"
    return f"{table(columns, rows)}\n{total}" if rows else total


def _reconciled(differences: list[Difference], bases: list[dict[str, Any]]) -> str:
    lines = [
        f"{one.scope!r}: spent {one.spent_nanos} and held {one.held_nanos} nano-USD, but its requests add up to "
        f"{one.expected_spent_nanos} and {one.expected_held_nanos}"
        for one in differences
    ]
    lines += [
        f"{counted(one['requests'], 'request')} without exact cost ({one['basis']}): {_money(one['cost_usd'])} USD"
        for one in bases
    ]
    return "\n".join([*lines, "differences found" if differences else "ok"])


def _print(row: dict[str, Any], as_json: bool) -> None:
    sys.stdout.write((json.dumps(row, ensure_ascii=False) if as_json else _line(row)) + "\n")


def _line(row: dict[str, Any]) -> str:
    served = row["model"] or row["model_requested"] or "-"
    tokens = f"{row['prompt_tokens'] or 0}+{row['completion_tokens'] or 0}"
    taken = "-" if row["total_ms"] is None else shown_ms(row["total_ms"])
    parts = (
        row["created_at"],
        row["status"],
        row["http_status"],
        row["project"],
        served,
        f"{tokens} tokens",
        f"{_money(row['cost_usd'])} USD",
        taken,
        f"cache {row['cache'] or '-'}",
        row["request_id"],
    )
    return printable("  ".join("-" if part is None else str(part) for part in parts))


def _money(usd: float | None) -> str:
    return "?" if usd is None else f"{usd:.9f}".rstrip("0").ljust(4, "0")
