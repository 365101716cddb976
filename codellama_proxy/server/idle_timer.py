"""Closes idle connections with one timer a connection, which is not reset by each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TOLERANCE_SECONDS = 0.001
"""How much earlier than the loop's clock a timer may ring."""


class IdleTimer:
    """Calls `ring` once after `seconds` of idleness."""

    __slots__ = ("_loop", "_ring", "_seconds", "_timer", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self.since: float | None = None
        """The loop's time since which the connection is idle; set to `None` when it is not."""
        self._loop = loop
        self._seconds = seconds
        self._ring: Callable[[], None] | None = ring
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The connection is idle from now on."""
        self.since = self._loop.time()
        if self._timer is None:
            self._check_in(self._seconds)

    def stop(self) -> None:
        """The connection is lost."""
        self._ring = None
        if self._timer is not None:
            self._timer.cancel()

    def _check_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        left = self._seconds if self.since is None else self.since + self._seconds - self._loop.time()
        if left > TOLERANCE_SECONDS:
            self._check_in(left)
        elif self._ring is not None:
            self._ring()
