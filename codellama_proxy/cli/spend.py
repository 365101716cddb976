"""The subcommands that read the ledger: `keys.py spend`, `logs` and `reconcile`."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from codellama_proxy.cli.command import Command, CommandError, answer, reading, table
from codellama_proxy.core.money import usd
from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.interfaces import Difference, LedgerSession
from codellama_proxy.store.reports import GROUPS, Filters

POLL = 0.5
"""Seconds between two looks at what is new."""
AT_ONCE = 1000

# --- the subcommands ---------------------------------------------------------------------------------------


def spend(args: Namespace) -> int:
    groups = [name.strip() for name in args.by.split(",")]
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise CommandError(f"--by {unknown[0]}: it is any of {', '.join(GROUPS)}", 2)
    start = None if args.since is None else time.time() - key_values.duration("--since", args.since)
    with reading(args) as db:
        found = db.spend(groups, Filters(start=start))
    return answer(args, found, _spend_table([name for name in GROUPS if name in groups], found))


def reconcile(args: Namespace) -> int:
    """Exit code 1 if a balance is not what its rows say."""
    with reading(args) as db:
        differences = db.reconcile()
        uncertain = db.inexact()
    bases = [
        {"basis": basis, "requests": requests, "cost_usd": usd(cost)} for basis, requests, cost in uncertain
    ]
    found = {"ok": not differences, "differences": [asdict(one) for one in differences], "not_exact": bases}
    answer(args, found, _reconciled(differences, bases))
    return 1 if differences else 0


def logs(args: Namespace) -> int:
    """What is recorded, oldest first; with `--follow`, what ends from now on, until interrupted."""
    if args.last < 0:
        raise CommandError("--last: it is a number of requests", 2)
    with reading(args) as db:
        seq = db.position(args.last)
        if args.follow:
            try:
                _follow(args, db, seq)
            except KeyboardInterrupt:
                return 0
        while rows := db.logs_after(seq, AT_ONCE):
            for seq, row in rows:  # noqa: B007 - the last one is where the next page begins
                _print(args, row)
    return 0


def _follow(args: Namespace, db: LedgerSession, seq: int) -> None:
    """Each request once, when it has ended: one that runs holds back nothing but itself."""
    running: list[str] = []
    while True:
        ended = [row for row in (db.log(request_id) for request_id in running) if row["status"] != "held"]
        fresh = db.logs_after(seq, AT_ONCE)
        seq = max((found for found, _ in fresh), default=seq)
        ended += [row for _, row in fresh if row["status"] != "held"]
        for row in ended:
            _print(args, row)
        sys.stdout.flush()
        done = {row["request_id"] for row in ended}
        running = [name for name in (*running, *(row["request_id"] for _, row in fresh)) if name not in done]
        if len(fresh) < AT_ONCE:
            time.sleep(POLL)


# --- showing -----------------------------------------------------------------------------------------------


def _spend_table(groups: list[str], found: dict[str, Any]) -> str:
    columns = [*groups, "requests", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_requests"]
    rows = [
        [_money(group[name]) if name == "cost_usd" else group[name] for name in columns]
        for group in found["data"]
    ]
    total = f"{found['total_requests']} requests, {_money(found['total_cost_usd'])} USD"
    return f"{table(columns, rows)}\n{total}" if rows else total


def _reconciled(differences: list[Difference], bases: list[dict[str, Any]]) -> str:
    lines = [
        f"{one.scope!r}: spent {one.spent_nanos} and held {one.held_nanos} nano-USD, but its requests say "
        f"{one.expected_spent_nanos} and {one.expected_held_nanos}"
        for one in differences
    ]
    lines += [
        f"{one['requests']} requests are not exact ({one['basis']}): {_money(one['cost_usd'])} USD"
        for one in bases
    ]
    return "\n".join([*lines, "differences found" if differences else "ok"])


def _print(args: Namespace, row: dict[str, Any]) -> None:
    sys.stdout.write((json.dumps(row, ensure_ascii=False) if args.json else _line(row)) + "\n")


def _line(row: dict[str, Any]) -> str:
    served = row["model"] or row["model_requested"] or "-"
    tokens = f"{row['prompt_tokens'] or 0}+{row['completion_tokens'] or 0}"
    taken = "-" if row["total_ms"] is None else f"{row['total_ms']:.0f}ms"
    parts = (
        row["created_at"],
        row["status"],
        row["http_status"],
        row["project"],
        served,
        f"{tokens} tokens",
        f"{_money(row['cost_usd'])} USD",
        taken,
        row["request_id"],
    )
    line = "  ".join("-" if part is None else str(part) for part in parts)
    # A client chose some of these words; none of them is a command for the terminal.
    return "".join(char if char.isprintable() else "?" for char in line)


def _money(usd: float | None) -> str:
    return "?" if usd is None else f"{usd:.9f}".rstrip("0").ljust(4, "0")


# --- the command line --------------------------------------------------------------------------------------


def _of_spend(parser: ArgumentParser) -> None:
    parser.add_argument("--by", default="project", metavar="GROUPS", help="any of " + ", ".join(GROUPS))
    parser.add_argument("--since", metavar="7d", help="only the last 30m, 1h, 7d; default: everything")


def _of_logs(parser: ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on with what ends from now on")
    parser.add_argument(
        "--last", type=int, default=20, metavar="N", help="how many to begin with; default 20"
    )


def _of_reconcile(parser: ArgumentParser) -> None:
    parser.epilog = "Exit code 1: a balance is not what its requests say."


COMMANDS: tuple[Command, ...] = (
    Command("spend", "what was spent", _of_spend, spend),
    Command("logs", "the requests themselves", _of_logs, logs),
    Command("reconcile", "check every balance against its requests", _of_reconcile, reconcile),
)
