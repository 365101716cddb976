"""Keys as rows of a table: state, spending, and the order that was asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.rates import overlay
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.overviews import KeyUse
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.budgets import Budget

STATES = ("active", "expiring", "expired", "blocked")
SORTS = ("newest", "spend", "last use", "expiry")
EXPIRES_SOON_SECONDS = 7.0 * DAY


class KeyRow(NamedTuple):
    key: Key
    state: str
    """One of `STATES`."""
    shown_state: str
    kind: str
    """A class of tags."""
    spent: int
    """Nano-USD in this month."""
    last_used: float | None
    budget: Budget | None
    limits: Limits
    """The effective ones."""

    @property
    def name(self) -> str:
        return self.key.name or f"{self.key.prefix}…"


def state_of(key: Key, now: float) -> tuple[str, str, str]:
    """The state, its text, and its class."""
    if key.blocked:
        return "blocked", "blocked", "bad"
    if key.expires_at is None:
        return "active", "active", "ok"
    if key.expires_at <= now:
        return "expired", "expired", ""
    if key.expires_at < now + EXPIRES_SOON_SECONDS:
        return "expiring", f"expires in {words.span(key.expires_at - now)}", "warn"
    return "active", "active", "ok"


def rows(
    uses: Iterable[KeyUse],
    spent: Mapping[str, int],
    budgets: Iterable[Budget],
    snapshot: Snapshot,
    now: float,
) -> list[KeyRow]:
    """`spent` in this month by key."""
    of_keys = {one.scope.id: one for one in budgets}
    return [
        KeyRow(
            use.key,
            *state_of(use.key, now),
            spent.get(use.key.key_id, 0),
            use.last_used,
            of_keys.get(f"key:{use.key.key_id}"),
            overlay(snapshot.limits["key"], use.key.limits),
        )
        for use in uses
    ]


def found(keys: Iterable[KeyRow], state: str | None, text: str) -> list[KeyRow]:
    """Those in a state whose name, project, ID or prefix contains a text."""
    wanted = text.lower()
    return [
        row
        for row in keys
        if state in (None, row.state)
        and (
            not wanted
            or any(wanted in field.lower() for field in (row.key.name or "", row.key.project, row.key.key_id))
            or row.key.prefix.startswith(text)
            or (len(text) > len(row.key.prefix) and text.startswith(row.key.prefix))
        )
    ]


def in_order(keys: Sequence[KeyRow], sort: str) -> list[KeyRow]:
    match sort:
        case "spend":
            return sorted(keys, key=lambda row: -row.spent)
        case "last use":
            return sorted(keys, key=lambda row: -(row.last_used or 0.0))
        case "expiry":
            never = float("inf")
            return sorted(keys, key=lambda row: never if row.key.expires_at is None else row.key.expires_at)
        case _:
            return list(keys)


def limits_in_words(limits: Limits) -> str:
    """`600 a minute, 20k tokens a minute, 4 at once`; a dash for none."""
    parts = [
        f"{words.count(value)} {what}"
        for value, what in (
            (limits.rpm_limit, "a minute"),
            (limits.tpm_limit, "tokens a minute"),
            (limits.max_parallel_requests, "at once"),
        )
        if value is not None
    ]
    return ", ".join(parts) or words.NONE
