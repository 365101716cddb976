"""A request of the ledger as a row of a table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from codellama_proxy.core.money import NANOS
from codellama_proxy.core.types import Key
from codellama_proxy.store.request_search import CACHED
from codellama_proxy.web.ui import words

Row = Mapping[str, Any]
"""As in `/spend/logs`."""


class Tag(NamedTuple):
    text: str
    kind: str = ""
    """`ok`, `warn`, `bad` or `info`; empty is neutral."""


class Shown(NamedTuple):
    """One request, as text."""

    id: str
    at: float
    outcome: Tag
    project: str
    key_id: str | None
    key_name: str
    asked: str
    """The model asked for, if another one served."""
    model: str
    tokens: tuple[str, str] | None
    """Prompt and completion."""
    cost: str
    cost_exact: str
    cost_tag: Tag | None
    took: str


def shown(rows: Iterable[Row], keys: Mapping[str, Key]) -> list[Shown]:
    """Rows with one number of decimals in the column of costs."""
    listed = list(rows)
    money = words.usd_column(nanos(row["cost_usd"]) for row in listed)
    return [_shown(row, keys, money) for row in listed]


def _shown(row: Row, keys: Mapping[str, Key], money: Callable[[int | None], str]) -> Shown:
    running = row["status"] == "held"
    cost = nanos(row["cost_usd"])
    requested, served = row["model_requested"], row["model"]
    prompt, completion = row["prompt_tokens"], row["completion_tokens"]
    return Shown(
        id=row["request_id"],
        at=moment(row),
        outcome=outcome(row),
        project=row["project"],
        key_id=row["key_id"],
        key_name=key_name(row["key_id"], keys),
        asked=requested or "" if served and requested != served else "",
        model=served or requested or words.NONE,
        tokens=None if running or prompt is None else (words.count(prompt), words.count(completion)),
        cost=words.NONE if running else money(cost),
        cost_exact="" if running else words.usd_exact(cost),
        cost_tag=None if running else _cost_tag(row),
        took=words.duration(None if running else row["total_ms"]),
    )


def outcome(row: Row) -> Tag:
    """How it ended, in a word or a status."""
    attempts = len(row["attempts"])
    match row["status"]:
        case "held":
            return Tag("running", "info")
        case "cancelled":
            return Tag("left")
        case "error":
            cut = row["http_status"] == 200
            return Tag("cut off" if cut else str(row["http_status"] or "failed"), "bad")
        case _:
            return Tag(f"200 after {attempts}", "warn") if attempts > 1 else Tag("200", "ok")


def _cost_tag(row: Row) -> Tag | None:
    if row["cache"] in CACHED:
        return Tag("cache", "info")
    return Tag(words.UNPRICED) if row["cost_usd"] is None else None


def key_name(key_id: str | None, keys: Mapping[str, Key]) -> str:
    """The name of a key, else the start of its secret, else its id."""
    if key_id is None:
        return words.NONE
    key = keys.get(key_id)
    return key_id if key is None else key.name or f"{key.prefix}…"


def moment(row: Row) -> float:
    """Unix seconds of the start."""
    return datetime.fromisoformat(row["created_at"]).timestamp()


def nanos(usd: float | None) -> int | None:
    """Nano-USD of an amount in JSON, which is the nearest number to it."""
    return None if usd is None else round(usd * NANOS)
