"""Slows down wrong tries to sign in. A right secret is never delayed, so wrong tries lock no one out."""

from __future__ import annotations

from collections import deque

from codellama_proxy.core.clock import Time

FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 2.0
MAX_WAITING = 8
"""Wrong tries that are delayed at the same time."""
RECENT_SECONDS = 60.0


class TooManyTriesError(Exception):
    """A wrong secret, while as many others are delayed as may be."""


class Throttle:
    """Counts the wrong tries of the process."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=64)
        """Monotonic seconds."""
        self._waiting = 0

    async def wrong(self, time: Time) -> None:
        """Call for a wrong secret: waits, longer the more there were recently. Raises `TooManyTriesError`."""
        if self._waiting >= MAX_WAITING:
            raise TooManyTriesError
        now = time.monotonic()
        while self._recent and now - self._recent[0] > RECENT_SECONDS:
            self._recent.popleft()
        delay = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(len(self._recent), 16))
        self._recent.append(now)
        self._waiting += 1
        try:
            await time.sleep(delay)
        finally:
            self._waiting -= 1
