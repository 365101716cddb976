"""Warns of names in a key's list of models that proxy.yaml does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codellama_proxy.cli.output import note
from codellama_proxy.config.check_report import inspect
from codellama_proxy.config.problems import did_you_mean
from codellama_proxy.config.settings import config_path, environment
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.policy.permissions import allows
from codellama_proxy.providers.registry import IMPLEMENTED
from codellama_proxy.routing.selection import model_name


def warn_of_unknown_models(patterns: Sequence[str]) -> None:
    """Prints a line on stderr for each of these names that allows no model. Nothing without a valid proxy.yaml."""
    path = config_path(None)
    snapshot = inspect(path, environment(), implemented=IMPLEMENTED).snapshot if path.is_file() else None
    if snapshot is not None:
        for why in unknown_models(patterns, snapshot):
            note(f"warning: {path}: {why}")


def unknown_models(patterns: Sequence[str], snapshot: Snapshot) -> Iterator[str]:
    """Why each of these names or wildcards allows no model, also none that is disabled."""
    known = [*snapshot.models, *dict.fromkeys(one.name for one in snapshot.disabled)]
    for pattern in patterns:
        if any(allows((pattern,), name) for name in known):
            continue
        model = model_name(snapshot, pattern)
        if model in known:
            yield f'"{pattern}" is an alias; a key needs the name of its model, "{model}"'
        else:
            yield f'no model is named "{pattern}"{did_you_mean(pattern, known)}'
