"""Sign-ins to the dashboard."""

from __future__ import annotations

from typing import NamedTuple, Protocol

MAX_UI_SESSIONS = 100
"""Of one virtual key, and of the operator."""


class UiSession(NamedTuple):
    """A sign-in to the dashboard, of a virtual key or of the operator."""

    secret_hash: str | None
    """Hexadecimal SHA-256 of the virtual key's secret; `None` for the operator."""
    master_mark: str | None
    """Tells whether the master key is still the same one; `None` for a virtual key."""
    secure: bool
    """Whether the browser came by https."""
    created_at: float
    seen_at: float


class UiSessions(Protocol):
    """Sign-ins to the dashboard, by the hexadecimal SHA-256 of their ID."""

    async def add(self, id_hash: str, session: UiSession) -> None:
        """Keeps at most `MAX_UI_SESSIONS` of a credential: those that were used last."""

    async def find(self, id_hash: str) -> UiSession | None: ...

    def seen(self, id_hash: str, at: float) -> None:
        """Queue that the session was used. Never waits or raises."""

    async def end(self, id_hash: str) -> None:
        """Delete the session, if there is one."""

    async def forget(self, *, seen_before: float, created_before: float) -> None:
        """Delete sessions that were not used since a time, or began before another."""
