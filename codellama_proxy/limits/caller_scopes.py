"""The scopes of a caller, and what follows from their limits, worked out once for a configuration. Pure."""

from __future__ import annotations

from typing import NamedTuple

from codellama_proxy.core.snapshot import Limits, Project, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.rates import ScopeLimits, project_scopes, with_caller

MAX_CALLERS = 1000
"""Keys of a project whose scopes are kept."""


class CallerScopes(NamedTuple):
    """The scopes that limit the requests of a caller."""

    limited: tuple[ScopeLimits, ...] = ()
    budgeted: bool = False
    """Whether a budget can refuse a request."""
    counts_tokens: bool = False
    """Whether prompt tokens are counted before admission rather than estimated from the size."""


class ProjectScopes:
    """The scopes of a project's callers under one configuration."""

    __slots__ = ("_common", "_of_keys", "_project", "_snapshot", "_user", "_usual")

    def __init__(self, snapshot: Snapshot, project: Project) -> None:
        self._snapshot = snapshot
        self._project = project.name
        self._common = project_scopes(snapshot, project)
        self._user: Limits = snapshot.limits["user"]
        self._of_keys: dict[str | None, tuple[Key | None, CallerScopes]] = {}
        """The oldest first."""
        self._usual: CallerScopes | None = None
        """Those of some key without limits of its own."""

    def of(self, key: Key | None, user: str | None) -> CallerScopes:
        """Those of one caller; the same object for all requests of a key."""
        if user is not None and self._user.is_set:
            return self._work_out(key, user)
        key_id = None if key is None else key.key_id
        kept = self._of_keys.get(key_id)
        if kept is None or kept[0] is not key:  # a key that was changed is another object
            if kept is None and len(self._of_keys) >= MAX_CALLERS:
                del self._of_keys[next(iter(self._of_keys))]
            kept = self._of_keys[key_id] = key, self._work_out(key, None)
        return kept[1]

    def _work_out(self, key: Key | None, user: str | None) -> CallerScopes:
        scopes = with_caller(self._common, self._snapshot, self._project, key, user)
        if user is None and key is not None and not key.limits.given:
            # It differs from other keys in its ID only.
            if self._usual is None:
                self._usual = _caller_scopes(scopes)
            return CallerScopes(scopes, *self._usual[1:])
        return _caller_scopes(scopes)


def _caller_scopes(scopes: tuple[ScopeLimits, ...]) -> CallerScopes:
    return CallerScopes(
        scopes,
        budgeted=any(of.max_budget is not None and not of.shadow for _, of in scopes),
        counts_tokens=any(of.tpm_limit is not None for _, of in scopes),
    )
