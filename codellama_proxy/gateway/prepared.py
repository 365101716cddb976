"""A configuration, with what its requests have in common worked out once: rules of projects, chains of models."""

from __future__ import annotations

from collections.abc import Callable

from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.policy.permissions import every_model
from codellama_proxy.policy.project_rules import ProjectRules, rules_of
from codellama_proxy.routing import selection
from codellama_proxy.routing.chain import Chain

MAX_PROJECTS = 4096
"""Projects whose rules are kept. Keys may belong to any number that the file does not name."""


class PreparedSnapshot:
    """One configuration. Each part is made for the first request that needs it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._whole_chains: dict[tuple[str | None, str], Chain] = {}
        self._rules: dict[str, ProjectRules] = {}

    def rules(self, project: str) -> ProjectRules:
        """The rules for requests of this project."""
        found = self._rules.get(project)
        if found is None:
            if len(self._rules) >= MAX_PROJECTS:
                self._rules.clear()
            found = self._rules[project] = rules_of(self.snapshot, self.snapshot.project(project))
        return found

    def whole_chain(self, name: str | None, mode: str) -> Chain:
        """The chain of a requested model where every model is permitted and none is cooling.

        Raises `ProxyError` model_not_found.
        """
        found = self._whole_chains.get((name, mode))
        if found is None:
            asked = selection.requested_model(self.snapshot, name, mode, every_model)
            if name is None or name == asked.name:
                found = Chain(selection.models_of_chain(self.snapshot, asked, every_model, {}, 0.0, mode))
                self._whole_chains[name, mode] = found
            else:  # an alias or an unknown name, of which there may be any number
                found = self.whole_chain(asked.name, mode)
        return found


class LatestPrepared:
    """The present configuration, prepared."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._latest: PreparedSnapshot | None = None

    def __call__(self) -> PreparedSnapshot:
        snapshot = self._snapshot()
        if self._latest is None or self._latest.snapshot is not snapshot:
            self._latest = PreparedSnapshot(snapshot)
        return self._latest
