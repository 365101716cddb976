"""What `/key/info` shows besides the key's own fields: its endpoints, its limits, and what remains of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.clock import iso
from codellama_proxy.core.money import usd
from codellama_proxy.core.snapshot import Limits, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.diagnostics.limit_sources import with_sources
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import overlay
from codellama_proxy.store.key_fields import LIMIT_FIELDS


def endpoints_shown(key: Key, snapshot: Snapshot) -> list[str] | None:
    """The names of the endpoints that the key's project may use; `None` for all."""
    endpoints = snapshot.project(key.project).endpoints
    return None if endpoints is None else sorted(endpoints)


def limits_shown(key: Key, snapshot: Snapshot) -> Mapping[str, Mapping[str, Any]]:
    """The effective limits of a key and of its project; `source` is where each is configured."""
    project = snapshot.project(key.project)
    of_key = overlay(snapshot.limits["key"], key.limits)
    of_project = project.own_limits.given
    return {
        "key": _sourced(of_key, key.limits.given, "key", "limits.key"),
        "project": _sourced(project.limits, of_project, f"projects.{key.project}.limits", "limits.project"),
    }


def _sourced(limits: Limits, own: frozenset[str], source: str, default: str) -> dict[str, Any]:
    shown = {
        field: {"value": value, "source": where}
        for field, value, where in with_sources(limits, own, source, default)
        if field in LIMIT_FIELDS
    }
    shown["max_budget"]["value"] = usd(limits.max_budget)
    return shown


def own_standing(standings: Sequence[ScopeState]) -> dict[str, Any]:
    """Spend in the window, what remains and when it starts again, of the key itself."""
    return next(_money(standing) for standing in standings if standing.scope.kind == "key")


def scopes_shown(standings: Sequence[ScopeState], *, everything: bool) -> list[dict[str, Any]]:
    """The current state of each scope; the global scope only for the administrator."""
    return [_scope(standing) for standing in standings if everything or standing.scope.kind != "global"]


def _scope(standing: ScopeState) -> dict[str, Any]:
    limits = standing.scope.limits
    parallel = limits.max_parallel_requests
    return {
        "scope": standing.scope.kind,
        "name": standing.scope.name,
        **_money(standing),
        "held": usd(standing.held_nanos),
        "remaining_requests": _whole(standing.rates.rpm_level),
        "remaining_tokens": _whole(standing.rates.tpm_level),
        "remaining_parallel_requests": None if parallel is None else max(0, parallel - standing.running),
        "shadow": limits.shadow,
    }


def _money(standing: ScopeState) -> dict[str, Any]:
    most = standing.scope.limits.max_budget
    left = None if most is None else max(0, most - standing.spent_nanos - standing.held_nanos)
    return {
        "spend": usd(standing.spent_nanos),
        "remaining": usd(left),
        "reset": None if standing.resets_at is None else iso(standing.resets_at),
    }


def _whole(level: float | None) -> int | None:
    return None if level is None else max(0, math.floor(level))
