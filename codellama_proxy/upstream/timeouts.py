"""Bounds one wait after another in a task, as `asyncio.timeout` bounds one, for a fraction of what that costs.

There is a single timer. It is not reset when a wait ends: it is looked at when it rings, and set again if the wait of
then may still take longer.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any, Self


class TaskTimeout:
    """For one task at a time: the one that waits. Its maker calls `close`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._until = math.inf
        """The event loop's time at which the present wait is over; for ever between two of them."""
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._rang = False
        self._cancelling = 0

    def within(self, seconds: float) -> Self:
        """`with watch.within(5): await ...` raises `TimeoutError` when that takes longer."""
        return self.until(self._loop.time() + seconds)

    def until(self, until: float) -> Self:
        """The same, until a time of the event loop's clock."""
        self._until = until
        if until < self._rings_at:
            self.close()
            self._set(until)
        return self

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._until = math.inf
        if not self._rang:
            return
        self._rang = False
        assert self._task is not None
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = None, math.inf

    def _set(self, at: float) -> None:
        self._timer, self._rings_at = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        if self._until <= self._loop.time():
            self._rang = True
            self._until = math.inf
            assert self._task is not None
            self._task.cancel()
        elif self._until < math.inf:
            self._set(self._until)
