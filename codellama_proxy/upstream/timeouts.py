"""Bounds successive waits in a task, like `asyncio.timeout` for each but cheaper.

There is a single timer. It is not cancelled when a wait ends; when it fires early, it is set again for the deadline
of the present wait.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any, Self


class TaskTimeout:
    """A timeout for one waiting task at a time. The owner calls `close`."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._until = math.inf
        """The deadline of the present wait, in event loop time; infinite between waits."""
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf
        self._fired = False
        self._cancelling = 0

    def within(self, seconds: float) -> Self:
        """`with timeout.within(5): await ...` raises `TimeoutError` after 5 seconds."""
        return self.until(self._loop.time() + seconds)

    def until(self, until: float) -> Self:
        """Like `within`, with a deadline in event loop time."""
        self._until = until
        if until < self._fires_at:
            self.close()
            self._set(until)
        return self

    def extend(self, until: float) -> None:
        """While a wait lasts: it may last until this later time."""
        self._until = until

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._until = math.inf
        if not self._fired:
            return
        self._fired = False
        assert self._task is not None
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at = None, math.inf

    def _set(self, at: float) -> None:
        self._timer, self._fires_at = self._loop.call_at(at, self._fire), at

    def _fire(self) -> None:
        self._timer, self._fires_at = None, math.inf
        if self._until <= self._loop.time():
            self._fired = True
            self._until = math.inf
            assert self._task is not None
            self._task.cancel()
        elif self._until < math.inf:
            self._set(self._until)
