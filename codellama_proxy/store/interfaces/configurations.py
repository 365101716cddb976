"""The last good configuration, and the history of reloads."""

from __future__ import annotations

from typing import NamedTuple, Protocol

MAX_RELOADS = 100
"""Entries of the history of reloads."""


class KeptConfiguration(NamedTuple):
    """A valid configuration's text, used at a start if the file is invalid."""

    text: bytes
    digest: str
    loaded_at: float


class Reload(NamedTuple):
    """A configuration that was read: at the start, or when the file changed."""

    at: float
    digest: str
    """Of the configuration in force afterwards."""
    ok: bool
    lines: tuple[str, ...]
    """What changed, or the problems for which the file was refused. Without secrets."""


class Configurations(Protocol):
    """The last good configuration, and the history of reloads."""

    def keep(self, kept: KeptConfiguration | None) -> None:
        """Queue the replacement of the kept configuration; `None` removes it. Never waits or raises."""

    def record(self, reload: Reload) -> None:
        """Queue an entry of the history. Never waits or raises."""

    async def reloads(self) -> list[Reload]:
        """The last `MAX_RELOADS`, newest first. Raises `ProxyError` accounting_unavailable."""
