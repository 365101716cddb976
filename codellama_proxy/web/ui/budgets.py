"""Budgets as people look at them: from the ledger's own balances, never from sums of requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.rates import overlay, split_scope
from codellama_proxy.limits.windows import HOUR, Window, is_rolling, turned, window
from codellama_proxy.store.interfaces import Overviews
from codellama_proxy.store.overviews import Balance, Sum
from codellama_proxy.store.reports import Filters
from codellama_proxy.web.ui.projection import MAX_RATE_SECONDS, Projection, Spending, project, rate_since
from codellama_proxy.web.ui.viewer import Viewer


class Scope(NamedTuple):
    """What has a budget."""

    id: str
    limits: Limits
    label: str
    link: str
    """The page about it, relative to the dashboard."""


class Budget(NamedTuple):
    """A scope's budget in its present window. Nano-USD, unix seconds."""

    scope: Scope
    window: Window
    spent: int
    held: int
    projection: Projection | None

    @property
    def limit(self) -> int:
        return self.scope.limits.max_budget or 0

    @property
    def left(self) -> int:
        return max(self.limit - self.spent - self.held, 0)

    @property
    def share(self) -> float:
        """The part of the limit that is spent."""
        return self.spent / self.limit if self.limit else 1.0

    @property
    def held_share(self) -> float:
        return self.held / self.limit if self.limit else 0.0

    @property
    def headed_for(self) -> int | None:
        return self.projection.headed_for if self.projection else None

    @property
    def runs_out(self) -> float | None:
        return self.projection.runs_out if self.projection else None

    @property
    def mark(self) -> float | None:
        """Where the budget is headed, as a part of the limit."""
        return self.headed_for / self.limit if self.headed_for is not None and self.limit else None

    @property
    def state(self) -> str:
        """A class: `bad` if it is used up, `warn` if it will be."""
        if self.share >= 1:
            return "bad"
        return "warn" if self.runs_out is not None else ""


def scopes_of(snapshot: Snapshot, viewer: Viewer, shown: str | None, keys: Iterable[Key]) -> list[Scope]:
    """The scopes with a budget that a viewer sees; `shown` restricts the operator's to one project."""
    own = viewer.key
    known = list(keys)
    names = {shown} if shown else {*snapshot.projects, *(key.project for key in known)}
    found: list[Scope] = []
    if viewer.is_operator and not shown:
        found.append(Scope("global:", snapshot.limits["global"], "everything", "overview"))
    found += [
        Scope(f"project:{name}", snapshot.project(name).limits, name, f"overview?project={name}")
        for name in sorted(names)
    ]
    found += [
        Scope(
            f"key:{key.key_id}",
            overlay(snapshot.limits["key"], key.limits),
            f"{key.name or key.prefix + '…'} ({key.project})",
            f"keys/{key.key_id}",
        )
        for key in known
        if (own is None or own.key_id == key.key_id) and key.project in names
    ]
    return [scope for scope in found if scope.limits.max_budget is not None]


def users_of(snapshot: Snapshot, balances: Iterable[Balance], shown: str | None) -> Iterator[Scope]:
    """The scopes of users; only those that were used are known."""
    limits = snapshot.limits["user"]
    for balance in balances:
        _, owner, user = split_scope(balance.scope)
        if limits.max_budget is not None and shown in (None, owner):
            yield Scope(balance.scope, limits, f"user {user} ({owner})", f"overview?project={owner}&by=user")


async def visible_budgets(
    overviews: Overviews,
    snapshot: Snapshot,
    viewer: Viewer,
    shown: str | None,
    keys: Sequence[Key],
    now: float,
) -> list[Budget]:
    """The budgets that a viewer sees, the fullest first; `shown` restricts them to one project."""
    scopes = scopes_of(snapshot, viewer, shown, keys)
    if viewer.is_operator and snapshot.limits["user"].max_budget is not None:
        scopes += users_of(snapshot, await overviews.user_balances(), shown)
    return await budgets(overviews, scopes, now)


async def budgets(overviews: Overviews, scopes: Sequence[Scope], now: float) -> list[Budget]:
    """The fullest first."""
    if not scopes:
        return []
    found = {one.scope: one for one in [*await overviews.balances(), *await overviews.user_balances()]}
    open_windows = {scope.id: _opened(scope.limits, found.get(scope.id), now) for scope in scopes}
    old = {scope.id for scope in scopes if open_windows[scope.id].start < now - MAX_RATE_SECONDS}
    since = (now - MAX_RATE_SECONDS) // HOUR * HOUR  # whole hours: such sums are kept
    recent = await _spent_since(overviews, since, old)
    made = []
    for scope in scopes:
        opened, balance = open_windows[scope.id], found.get(scope.id)
        spent, held = await _spent(overviews, scope, opened, balance)
        in_week = spent
        if rate_since(opened.start, now) != opened.start:
            in_week = round(recent.get(scope.id, 0) * MAX_RATE_SECONDS / (now - since))
        limit = scope.limits.max_budget or 0
        projection = project(Spending(spent, limit, opened.start, opened.end, min(in_week, spent)), now)
        made.append(Budget(scope, opened, spent, held, projection))
    return sorted(made, key=lambda one: (-one.share, one.scope.label))


def _opened(limits: Limits, balance: Balance | None, now: float) -> Window:
    """The scope's present window; that of the ledger if it is still open."""
    duration = limits.budget_duration
    if balance is None or balance.duration != duration:
        return window(duration, now, now)
    return turned(Window(balance.start, balance.end), duration, now)


async def _spent(
    overviews: Overviews, scope: Scope, opened: Window, balance: Balance | None
) -> tuple[int, int]:
    """What was spent in the window, and what is held."""
    if balance is not None and balance.duration == scope.limits.budget_duration:
        return (balance.spent_nanos, balance.held_nanos) if balance.start >= opened.start else (0, 0)
    # The budget is newer than its scope's last request; the ledger will sum these rows up at the next one.
    if is_rolling(scope.limits.budget_duration):
        return 0, 0
    filters = _filters(scope.id)._replace(start=opened.start or None)
    return (await overviews.sums((), filters)).total.cost_nanos, 0


def _filters(scope: str) -> Filters:
    kind, owner, _ = split_scope(scope)
    return (
        Filters(project=owner) if kind == "project" else Filters(key_id=owner) if kind == "key" else Filters()
    )


async def _spent_since(overviews: Overviews, start: float, scopes: Set[str]) -> Mapping[str, int]:
    """By scope: of everything, projects and keys, as far as `scopes` has such."""
    found: dict[str, int] = {}
    kinds = {split_scope(scope)[0] for scope in scopes}
    if kinds & {"global", "project"}:
        projects = await overviews.sums(("project",), Filters(start=start))
        found["global:"] = projects.total.cost_nanos
        found |= {f"project:{_named(one, 'project')}": one.cost_nanos for one in projects.groups}
    if "key" in kinds:
        keys = await overviews.sums(("key",), Filters(start=start))
        found |= {f"key:{_named(one, 'key')}": one.cost_nanos for one in keys.groups}
    return found


def _named(one: Sum, group: str) -> str:
    return str(one.groups[group])
