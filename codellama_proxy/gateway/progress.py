"""Which requests have just begun or ended, for pages that show them as they come.

While no page asks, `watched` is false, and requests cost one comparison each. Places in the record are random marks,
so they tell nobody how many requests there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MAX_RECENT = 500
"""Entries that are kept; who comes back later has to read the list again."""
WATCH_SECONDS = 600.0
"""How long entries are kept after the last page asked."""


class Since(NamedTuple):
    """What happened after a mark."""

    request_ids: tuple[str, ...]
    """Each once, in the order of the last change."""
    mark: str


class Progress:
    """The record. All methods are called on the event loop."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.watched = False
        self._monotonic = monotonic
        self._until = 0.0
        self._recent: deque[tuple[str, str]] = deque(maxlen=MAX_RECENT + 1)
        self._changed: asyncio.Event | None = None

    def watch(self) -> str:
        """Record from now on; returns the mark of the present."""
        self._until = self._monotonic() + WATCH_SECONDS
        if not self.watched:
            self._recent.clear()
            self._recent.append((_mark(), ""))
            self.watched = True
        return self._recent[-1][0]

    def note(self, request_id: str) -> None:
        """A request was admitted, or was booked. To be called if `watched`."""
        if self._monotonic() > self._until:
            self.watched = False
            return
        self._recent.append((_mark(), request_id))
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def since(self, mark: str) -> Since | None:
        """What was noted after a mark; `None` if that is unknown, or too long ago."""
        self._until = self._monotonic() + WATCH_SECONDS
        later: dict[str, None] = {}
        for at, request_id in reversed(self._recent):
            if at == mark:
                return Since(tuple(reversed(later)), self._recent[-1][0])
            later.setdefault(request_id)
        return None

    async def wait(self, seconds: float) -> None:
        """Until something is noted, or so long."""
        if self._changed is None:
            self._changed = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


def _mark() -> str:
    return secrets.token_hex(6)
