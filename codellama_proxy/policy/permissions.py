"""Which models a caller may use: the allow-lists of its key and of its project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from codellama_proxy.core.snapshot import Project
from codellama_proxy.core.types import Key

ENDPOINT_NAMES = {"chat/completions": "chat"}
"""Endpoints whose name in a project's `endpoints` differs from their path."""


def allows(patterns: Sequence[str] | None, name: str) -> bool:
    """Whether an allow-list of case-sensitive shell wildcards contains `name`; `None` allows every name."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def permission(project: Project, key: Key | None, endpoint: str = "") -> Callable[[str], bool]:
    """A predicate on model names: whether a key of this project may use the model at an endpoint.

    `endpoint` is the path without `/v1/`; empty for any.
    """
    if (
        project.endpoints is not None
        and endpoint
        and ENDPOINT_NAMES.get(endpoint, endpoint) not in project.endpoints
    ):
        return _no_model
    of_key, of_project = key.models if key else None, project.models
    if of_key is None and of_project is None:
        return every_model
    return lambda name: allows(of_key, name) and allows(of_project, name)


def every_model(_: str) -> bool:
    """The permission of a key without restrictions."""
    return True


def _no_model(_: str) -> bool:
    return False
