"""The values that are in force, in terms of the file and without secrets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple

from codellama_proxy.config.diff import FIELD_NAMES, Place, is_hidden, shown_value
from codellama_proxy.core.masking import mask_of
from codellama_proxy.core.snapshot import Bundle, Secret, Snapshot

HIDDEN = "(hidden)"
_SECTIONS = (
    *("guardrail", "routing", "limits", "projects", "aliases", "cache", "tracking", "server", "ui"),
    *("auth_required", "metrics_public", "egress"),
)
_DERIVED = frozenset(
    {"id", "name", "given", "secrets", "identity", "disabled", "ca_bundle", "own_limits"} | {"relays"}
)
_DEFAULTS: Mapping[str, Any] = {"auth_required": True, "metrics_public": False}
"""Of fields that the snapshot is always given."""


class Value(NamedTuple):
    name: str
    """As in the file: `routing.backoff.initial`, `gpt-4#1.timeouts.idle`."""
    text: str
    is_default: bool


def effective(snapshot: Snapshot) -> list[Value]:
    """The sections, then the deployments with their values other than defaults."""
    clean = mask_of(snapshot)
    whole = Place("", snapshot.hidden)
    found = [value for name in _SECTIONS for value in _values(whole, name, snapshot)]
    enabled = [d for model in snapshot.models.values() for d in model.deployments]
    for deployment in (*enabled, *snapshot.disabled):
        place = Place(deployment.id, snapshot.hidden, f"models.{deployment.id}")
        found += [value for value in _inner(place, deployment) if not value.is_default]
    return [Value(one.name, clean(one.text), one.is_default) for one in found]


def _values(place: Place, name: str, owner: Any) -> Iterator[Value]:
    key = FIELD_NAMES.get(name, name)
    default = _DEFAULTS.get(name, default_of(owner, name))
    yield from _value(place.inner(key), key, getattr(owner, name), default)


def _inner(place: Place, section: Any) -> Iterator[Value]:
    for field in fields(section):
        if field.init and field.name not in _DERIVED:
            yield from _values(place, field.name, section)


def _value(place: Place, key: str, value: Any, default: Any) -> Iterator[Value]:
    if is_dataclass(value) and not isinstance(value, Secret | Bundle):
        yield from _inner(place, value)
    elif isinstance(value, Mapping) and key in ("limits", "projects", "aliases"):
        for name, inner in value.items():
            yield from _value(place.inner(str(name)), str(name), inner, MISSING)
    elif place.is_hidden or is_hidden(key, value):
        if value or place.is_hidden:
            yield Value(place.label, HIDDEN, not place.is_hidden and value == default)
    else:
        yield Value(place.label, shown_value(key, value), value == default)


def default_of(owner: Any, name: str) -> Any:
    """The default of a dataclass' field; `MISSING` if it has none."""
    field: Field[Any] = next(one for one in fields(owner) if one.name == name)
    return field.default if field.default_factory is MISSING else field.default_factory()
