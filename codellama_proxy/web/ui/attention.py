"""What needs a person, worst first, each with the page that helps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.windows import DAY
from codellama_proxy.routing.cooldown import Cooling, is_cooling
from codellama_proxy.web.ui import words
from codellama_proxy.web.ui.budgets import Budget

EXPIRY_NOTICE_SECONDS = 7.0 * DAY
_RANKS = {"bad": 0, "warn": 1, "note": 2}


class Note(NamedTuple):
    kind: Literal["bad", "warn", "note"]
    text: str
    link: str
    """Relative to the dashboard."""


def notes(*parts: Iterable[Note]) -> list[Note]:
    """All of them, the worst first."""
    return sorted((note for part in parts for note in part), key=lambda note: _RANKS[note.kind])


def of_configuration(error: str | None) -> Iterator[Note]:
    if error is not None:
        yield Note("bad", "proxy.yaml has errors; the configuration before it is in force.", "config")


def of_budgets(budgets: Iterable[Budget], now: float) -> Iterator[Note]:
    for one in budgets:
        if one.share >= 1:
            again = "" if one.window.end is None else f"; it resets in {words.span(one.window.end - now)}"
            yield Note("bad", f"The budget of {one.scope.label} is used up{again}.", "budgets")
        elif one.runs_out is not None:
            yield Note(
                "warn",
                f"At this rate the budget of {one.scope.label} runs out in {words.span(one.runs_out - now)}.",
                "budgets",
            )


def of_deployments(snapshot: Snapshot, cooling: Mapping[str, Cooling], now: float) -> Iterator[Note]:
    """`now` is in monotonic seconds."""
    for model in snapshot.models.values():
        for deployment in model.deployments:
            state = cooling.get(deployment.id)
            if state is not None and is_cooling(state, now):
                left = words.span(max(state.until - now, 0.0))
                yield Note("warn", f"{deployment.id} is cooling for {left} ({state.why}).", "models")
    for deployment in snapshot.disabled:
        yield Note("note", f"{deployment.id} is disabled: {deployment.disabled}.", "models")


def of_keys(keys: Iterable[Key], now: float, link: str = "keys") -> Iterator[Note]:
    for key in keys:
        if (
            key.expires_at is not None
            and now < key.expires_at < now + EXPIRY_NOTICE_SECONDS
            and not key.blocked
        ):
            left = words.span(key.expires_at - now)
            yield Note("warn", f"The key {key.name or key.prefix} of {key.project} expires in {left}.", link)


def of_unpriced(number: int, period: str, project: str | None) -> Iterator[Note]:
    if number:
        query = {"project": project} if project else {}
        link = f"models?{urlencode(query)}" if query else "models"
        yield Note(
            "note", f"No price is known for {words.counted(number, 'request')} of the last {period}.", link
        )


def of_refusals(refusals: Mapping[tuple[str, str], int]) -> Iterator[Note]:
    """`refusals` of the last hour, by scope and kind of limit."""
    names = {"requests": "requests a minute", "tokens": "tokens a minute", "parallel": "parallel requests"}
    for (scope, kind), number in sorted(refusals.items(), key=lambda one: -one[1]):
        limit = names.get(kind, kind)
        yield Note(
            "note",
            f"{words.counted(number, 'request')} refused in the last hour by a limit of {scope} on {limit}.",
            "budgets" if kind == "budget" else "keys",
        )


def of_tracking(dropped: int) -> Iterator[Note]:
    if dropped:
        yield Note("warn", f"{words.counted(dropped, 'tracking record')} dropped since the start.", "config")
