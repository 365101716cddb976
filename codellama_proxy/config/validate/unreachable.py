"""Parts of a valid configuration without effect: unreachable fallbacks and limits, budgets on models without a price.

All are warnings, because a key that is unset now may be set later. Messages show no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from codellama_proxy.config.schema import File
from codellama_proxy.config.validate.finding import Entries, Finding
from codellama_proxy.config.yaml.document import Path
from codellama_proxy.core.snapshot import Deployment, Limits, Model, Project, Snapshot
from codellama_proxy.limits import budgets
from codellama_proxy.policy.guardrail import guardrail_text
from codellama_proxy.policy.permissions import allows
from codellama_proxy.pricing.catalogue import price_of
from codellama_proxy.pricing.plausible_usage import OWN_TOKENS
from codellama_proxy.tokens import tokenizers as tokens

MIN_PROMPT = ({"role": "user", "content": "x"},)
"""The smallest chat request, in tokens and in bytes."""
MIN_PROMPT_BYTES = len('{"prompt":"x"}')
_COUNTED = ("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget")


class Scope(NamedTuple):
    """The limits of a scope, and their path in the file."""

    path: Path
    limits: Limits
    project: Project | None = None
    """The project they belong to, if any."""

    def binds(self, field: str) -> bool:
        return getattr(self.limits, field) is not None and not self.limits.shadow

    def writes(self, field: str) -> bool:
        """Whether the field is set explicitly in this scope."""
        given = self.project.own_limits.given if self.project else self.limits.given
        return field in given and getattr(self.limits, field) is not None


def findings(snapshot: Snapshot, file: File, entries: Entries) -> Iterator[Finding]:
    """Warnings about parts without effect."""
    yield from _unpriced(snapshot, entries)
    yield from _cycles(entries)
    yield from _projects(snapshot)
    yield from _fallbacks(snapshot, entries)
    yield from _never_reached(snapshot, file)
    yield from _never_met(snapshot)
    yield from _pauses(file)


# --- models ------------------------------------------------------------------------------------------------


def _cycles(entries: Entries) -> Iterator[Finding]:
    """Each explicit fallback that closes a cycle, reported once."""
    edges = _edges(entries)
    done: set[str] = set()
    for start in edges:
        stack: list[tuple[str, Iterator[tuple[Path, str]]]] = [(start, iter(edges[start]))]
        while stack and start not in done:
            path, name = next(stack[-1][1], ((), None))
            if name is None:
                done.add(stack.pop()[0])
            elif name in (names := [one for one, _ in stack]):
                cycle = [*names[names.index(name) :], name]
                yield Finding(path, _cycle_message(cycle, entries), "warning")
            elif name in edges and name not in done:
                stack.append((name, iter(edges[name])))


def _edges(entries: Entries) -> dict[str, list[tuple[Path, str]]]:
    edges: dict[str, list[tuple[Path, str]]] = {}
    for index, entry in entries.by_index.items():
        if entry.fallbacks is not None and entry.name not in edges:
            places = enumerate(entry.fallbacks)
            edges[entry.name] = [
                (("models", index, "fallbacks", place), name) for place, name in places if name != entry.name
            ]
    return edges


def _cycle_message(names: Sequence[str], entries: Entries) -> str:
    hidden = any(path[-1:] == ("name",) or "fallbacks" in path for path in entries.hidden)
    shown = "" if hidden else f": {' → '.join(names)}"
    return f"the fallbacks form a cycle{shown}; a request tries each model once"


def _projects(snapshot: Snapshot) -> Iterator[Finding]:
    for name, project in snapshot.projects.items():
        if project.models is not None and not any(allows(project.models, m) for m in snapshot.models):
            message = "allows no enabled model, so its keys can use nothing"
            yield Finding(("projects", name, "models"), message, "warning")


def _fallbacks(snapshot: Snapshot, entries: Entries) -> Iterator[Finding]:
    projects = snapshot.projects.values()
    for name, edges in _edges(entries).items():
        using = [project for project in projects if allows(project.models, name)]
        for path, fallback in edges:
            if using and not any(allows(project.models, fallback) for project in using):
                message = "no project of this file that may use the model may use this fallback"
                yield Finding(path, message, "warning")


def _unpriced(snapshot: Snapshot, entries: Entries) -> Iterator[Finding]:
    """Models that are skipped or refused under a budget, because their price is unknown."""
    budgeted = [scope for scope in _scopes(snapshot) if scope.binds("max_budget")]
    if not budgeted:
        return
    deployments = {d.id: d for d in _deployments(snapshot)}
    numbers: dict[str, int] = {}
    for index, entry in entries.by_index.items():
        numbers[entry.name] = numbers.get(entry.name, 0) + 1
        deployment = deployments.get(f"{entry.name}#{numbers[entry.name]}")
        names = {("models", index, key) for key in ("provider", "model", "price", "base_model", "name")}
        if deployment is None or names & entries.unknown or price_of(deployment) is not None:
            continue
        if _may_meet(budgeted, entry.name):
            message = "has no known price, so requests under a budget skip it or are refused; give it one"
            yield Finding(("models", index), f"{entry.name} {message}", "warning", with_path=False)


def _may_meet(budgeted: Sequence[Scope], name: str) -> bool:
    """Whether a budget applies to the model: a general one, or that of a project that may use it."""
    return any(scope.project is None or allows(scope.project.models, name) for scope in budgeted)


def _deployments(snapshot: Snapshot) -> list[Deployment]:
    return [d for model in snapshot.models.values() for d in model.deployments]


# --- guardrails -----------------------------------------------------------------------------------------------


def guardrails(snapshot: Snapshot, file: File, entries: Entries) -> Iterator[Finding]:
    """Missing or empty system prompts. `false` disables one explicitly."""
    if snapshot.guardrail.client_system == "reject" and _chats_of_agents(snapshot):
        message = "coding agents send system messages in every request, so /v1/messages and /v1/responses refuse them"
        yield Finding(("guardrail", "client_system"), message, "warning")
    nothing = "so requests get no system prompt; write one, or false for none"
    path: Path = ("guardrail", "system_prompt")
    chats = any(one.serves("chat") for one in (*_deployments(snapshot), *snapshot.disabled))
    if file.guardrail.system_prompt == "" and chats:
        written = "system_prompt" in file.guardrail.model_fields_set
        yield Finding(
            path if written else ("guardrail",), f"{'empty' if written else 'missing'}, {nothing}", "warning"
        )
    for index, entry in entries.by_index.items():
        path = ("models", index, "system_prompt")
        if entry.system_prompt == "":
            yield Finding(path, f"empty, {nothing}", "warning")
    for name, project in file.projects.items():
        path = ("projects", name, "guardrail")
        if project.guardrail == "":
            yield Finding(path, f"empty, {nothing}", "warning")


def _chats_of_agents(snapshot: Snapshot) -> bool:
    """Whether any project may use the endpoints of coding agents."""
    projects = list(snapshot.projects.values())
    return not projects or any(
        project.endpoints is None or project.endpoints & {"messages", "responses"} for project in projects
    )


# --- limits ------------------------------------------------------------------------------------------------


def _scopes(snapshot: Snapshot) -> list[Scope]:
    general = [Scope(("limits", kind), limits) for kind, limits in snapshot.limits.items()]
    own = [
        Scope(("projects", name, "limits"), project.limits, project)
        for name, project in snapshot.projects.items()
    ]
    return [*general, *own]


def _never_reached(snapshot: Snapshot, file: File) -> Iterator[Finding]:
    """Limits above those of the enclosing scope, which always refuses first."""
    scopes = _scopes(snapshot)
    everything, project, key, user = scopes[:4]
    own = scopes[4:]
    for scope in (project, *own):
        yield from _above(scope, (everything,))
    for scope in (key, user):
        yield from _above(scope, (project, *own))
    server = file.server.max_parallel_requests
    if everything.writes("max_parallel_requests") and (everything.limits.max_parallel_requests or 0) > server:
        message = "never reached: server.max_parallel_requests is lower"
        yield Finding((*everything.path, "max_parallel_requests"), message, "warning")


def _above(scope: Scope, around: Sequence[Scope]) -> Iterator[Finding]:
    for field in _COUNTED:
        if scope.writes(field) and all(wider.binds(field) for wider in around):
            widest = max(around, key=lambda wider: int(getattr(wider.limits, field)))
            same_window = field != "max_budget" or all(
                wider.limits.budget_duration == scope.limits.budget_duration for wider in around
            )
            if same_window and getattr(scope.limits, field) > getattr(widest.limits, field):
                above = ".".join(str(part) for part in (*widest.path, field))
                yield Finding((*scope.path, field), f"never reached: {above} is lower", "warning")


def _never_met(snapshot: Snapshot) -> Iterator[Finding]:
    """Limits below the smallest request. 0 is intentional: none allowed."""
    chats = [model for model in snapshot.models.values() if model.deployments[0].mode == "chat"]
    least_tokens = tokens.of_chat(MIN_PROMPT, (), lambda _: 1)
    for scope in _scopes(snapshot):
        if chats and scope.writes("tpm_limit") and 0 < (scope.limits.tpm_limit or 0) < least_tokens:
            message = "can never be met: the smallest request takes more tokens"
            yield Finding((*scope.path, "tpm_limit"), message, "warning")
        budget = scope.limits.max_budget or 0
        if scope.writes("max_budget") and budget and _unaffordable(snapshot, chats, scope, budget):
            message = "can never be met: the smallest request to the cheapest model holds more"
            yield Finding((*scope.path, "max_budget"), message, "warning")


def _unaffordable(snapshot: Snapshot, chats: Sequence[Model], scope: Scope, budget: int) -> bool:
    costs = [_least_cost(snapshot, model, scope.project) for model in chats if _priced(model)]
    return bool(costs) and all(budgets.fit(cost, 1, budget) is None for cost in costs)


def _priced(model: Model) -> bool:
    return all(price_of(d) is not None for d in model.deployments)


def _least_cost(snapshot: Snapshot, model: Model, project: Project | None) -> budgets.Bound:
    """Of the model alone: fallbacks can only increase it."""
    whose = project or Project("")
    text = max(len(guardrail_text(snapshot.guardrail, whose, d).encode()) for d in model.deployments)
    prompt = MIN_PROMPT_BYTES + text + tokens.framing_bound(MIN_PROMPT) + OWN_TOKENS
    prices = [price_of(d) for d in model.deployments]
    return budgets.bound(prices, [prompt] * len(prices), 1)


# --- pauses ------------------------------------------------------------------------------------------------


def _pauses(file: File) -> Iterator[Finding]:
    """Pauses above their own maximum."""
    backoff, cooldown = file.routing.backoff, file.routing.cooldown
    pairs: Mapping[Path, tuple[float, float, bool]] = {
        ("routing", "backoff", "initial"): (backoff.initial, backoff.max, _written(backoff, "initial")),
        ("routing", "cooldown", "time"): (cooldown.time, cooldown.max_time, _written(cooldown, "time")),
        ("routing", "cooldown", "auth_time"): (
            cooldown.auth_time,
            cooldown.max_time,
            _written(cooldown, "auth_time"),
        ),
    }
    for path, (pause, most, written) in pairs.items():
        if written and pause > most:
            name = "backoff.max" if path[1] == "backoff" else "cooldown.max_time"
            yield Finding(path, f"never reached: routing.{name} is lower", "warning")


def _written(section: object, field: str) -> bool:
    return field in getattr(section, "model_fields_set", ())
