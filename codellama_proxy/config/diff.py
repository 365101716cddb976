"""The changes between two snapshots, in terms of the file and without secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from codellama_proxy.core.masking import mask_of, without_credentials
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import Deployment, Model, Secret, Snapshot

_DURATIONS = frozenset(
    {"connect", "first_token", "idle", "answer", "first_token_delay", "retry_after"}
    | {"deadline", "backoff.initial", "backoff.max", "max_retry_after", "time", "max_time", "auth_time"}
    | {"ttl", "drain", "drain_delay", "requests.retention", "session"}
)
_NANOS = frozenset({"max_budget", "input", "output", "cached_input", "cache_write", "cache_write_1h"})
_UNSHOWN = frozenset(
    {"params", "headers", "extra", "mock.reply", "certificates", "above", "service_tiers", "server_tools"}
)
"""May contain secrets or long values."""
FIELD_NAMES = {
    "backoff_initial": "backoff.initial",
    "backoff_max": "backoff.max",
    "promptlayer_key": "promptlayer.api_key",
    "promptlayer_content": "promptlayer.content",
    "promptlayer_tags": "promptlayer.tags",
    "requests_content": "requests.content",
    "requests_retention": "requests.retention",
    "auth_required": "auth.required",
    "metrics_public": "metrics.public",
}
"""Fields whose key in the file has another name."""
_DERIVED = frozenset({"id", "name", "fallbacks", "disabled", "given", "secrets", "identity", "ca_bundle"})
_OWN_LINES = frozenset(
    {"digest", "models", "disabled", "aliases", "projects", "warnings", "secrets", "hidden", "fingerprint"}
)


def difference(old: Snapshot, new: Snapshot) -> list[str]:
    """Lines such as `models: +claude-fast` and `codellama.timeouts.first_token 30s → 10s`."""
    hidden = old.hidden | new.hidden
    lines = [
        *_models(old, new, hidden),
        *_aliases(old.aliases, new.aliases, Place("aliases", hidden)),
        *_named("projects", old.projects, new.projects, hidden),
        *_fields(Place("", hidden), old, new, skip=_OWN_LINES),
    ]
    before, after = mask_of(old), mask_of(new)
    return [after(before(line)) for line in lines]


class Place(NamedTuple):
    """A part of the file: its label in lines, its path, and the paths that are not shown."""

    label: str
    hidden: frozenset[str]
    path: str = ""

    def inner(self, key: str) -> Place:
        label = f"{self.label}.{key}" if self.label else key
        return Place(label, self.hidden, f"{self.path}.{key}" if self.path else label)

    @property
    def is_hidden(self) -> bool:
        """Whether part of it came from `${...}`, here or in the section with the defaults."""
        general = ".".join(self.path.split(".")[-2:]) if ".timeouts." in self.path else self.path
        return any(
            place in (self.path, general) or place.startswith(f"{self.path}.") for place in self.hidden
        )


def _models(old: Snapshot, new: Snapshot, hidden: frozenset[str]) -> Iterator[str]:
    before, after = _deployments(old), _deployments(new)
    had, has = (Counter(d.name for d in those.values()) for those in (before, after))
    yield from _members("models", had, has)
    yield from _order("models", old.models, new.models)
    for id_, deployment in after.items():
        was = before.get(id_)
        label = deployment.name if has[deployment.name] == 1 else id_
        if was is not None:
            yield from _availability(label, was, deployment)
            switched = (was.disabled is None) != (deployment.disabled is None)
            place = Place(label, hidden, f"models.{id_}")
            yield from _fields(place, was, deployment, skip=_DERIVED | ({"api_key"} if switched else set()))
        elif deployment.name in had:
            yield f"models: +{id_}"
    for id_, deployment in before.items():
        if id_ not in after and deployment.name in has:
            yield f"models: -{id_}"
    yield from _fallbacks(old.models, new.models)


def _deployments(snapshot: Snapshot) -> dict[str, Deployment]:
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    return {d.id: d for d in (*enabled, *snapshot.disabled)}


def _order(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    stayed = [name for name in old if name in new]
    if stayed != (now := [name for name in new if name in old]):
        yield f"{label}: order {', '.join(stayed)} → {', '.join(now)}"


def _aliases(old: Mapping[str, str], new: Mapping[str, str], place: Place) -> Iterator[str]:
    yield from _members("aliases", old, new)
    yield from _order("aliases", old, new)
    for alias, model in new.items():
        yield from _value(place.inner(alias), "", old.get(alias, model), model)


def _availability(label: str, old: Deployment, new: Deployment) -> Iterator[str]:
    if old.disabled is not None and new.disabled is None:
        yield f"{label} enabled"
    elif new.disabled is not None and old.disabled != new.disabled:
        yield f"{label} disabled: {new.disabled}"


def _fallbacks(old: Mapping[str, Model], new: Mapping[str, Model]) -> Iterator[str]:
    """Only changes that do not follow from added, removed or reordered models."""
    if list(old) != list(new):
        return
    for name in new:
        if old[name].fallbacks == new[name].fallbacks:
            continue
        before = [other for other in old[name].fallbacks if other in new]
        after = [other for other in new[name].fallbacks if other in old]
        if before != after:
            yield f"{name}.fallbacks {shown_value('', before)} → {shown_value('', after)}"


def _named(
    label: str, old: Mapping[str, Any], new: Mapping[str, Any], hidden: frozenset[str]
) -> Iterator[str]:
    yield from _members(label, old, new)
    for name in new:
        if name in old:
            place = Place(f"{label}.{name}", hidden, f"{label}.{name}")
            yield from _fields(place, old[name], new[name], skip=frozenset({"name", "limits"}))


def _members(label: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for sign, names in (("-", [n for n in old if n not in new]), ("+", [n for n in new if n not in old])):
        if names:
            yield f"{label}: {', '.join(sign + name for name in names)}"


def _fields(place: Place, old: Any, new: Any, *, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    for field in fields(new):
        if field.init and field.name not in skip:
            key = "limits" if field.name == "own_limits" else FIELD_NAMES.get(field.name, field.name)
            yield from _value(place.inner(key), key, getattr(old, field.name), getattr(new, field.name))


def _value(place: Place, key: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if is_dataclass(old) and is_dataclass(new):
        yield from _fields(place, old, new, skip=frozenset({"given"}))
    elif key == "limits" and isinstance(old, Mapping):
        for scope in new:
            yield from _value(place.inner(scope), scope, old[scope], new[scope])
    elif place.is_hidden or is_hidden(key, old) or is_hidden(key, new):
        yield f"{place.label} changed"
    else:
        yield f"{place.label} {shown_value(key, old)} → {shown_value(key, new)}"


def is_hidden(key: str, value: Any) -> bool:
    """Whether a value of a field is never shown."""
    secret = isinstance(value, Secret | Mapping) or is_dataclass(value)
    text = key in {"system_prompt", "guardrail", "reply"} and isinstance(value, str)
    return secret or text or key in _UNSHOWN


def shown_value(key: str, value: Any) -> str:
    """A value of a field, in the format of the file."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case tuple() | list() | frozenset():
            items = sorted(value) if isinstance(value, frozenset) else value
            return f"[{', '.join(str(item) for item in items)}]"
    if key in _NANOS:
        return f"{Decimal(value) / NANOS:f}"
    if isinstance(value, str) and "://" in value:
        return without_credentials(value)
    return duration(value) if key in _DURATIONS else f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """In the format of the file: `250ms`, `30s`, `10m`, `30d`."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    for size, unit, least in ((86400, "d", 1), (3600, "h", 1), (60, "m", 2)):
        if seconds >= size * least and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
