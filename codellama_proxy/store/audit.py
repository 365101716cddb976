"""Actions, actors and filters of the audit of key changes."""

from __future__ import annotations

from typing import NamedTuple

ACTIONS = ("create", "update", "block", "unblock", "rotate", "delete")
MASTER, CLI = "master", "cli"
"""Actors: the master key, and the command line."""


class AuditFilters(NamedTuple):
    """Which changes to return; `None` matches all. Unix seconds, `start` inclusive, `end` exclusive."""

    project: str | None = None
    key_id: str | None = None
    action: str | None = None
    actor: str | None = None
    start: float | None = None
    end: float | None = None
