"""Bounds successive waits in a task, like `asyncio.timeout` for each but cheaper.

A deadline is not removed when a wait ends; when it passes too early, the deadline of the present wait replaces it. All
tasks share one timer of the event loop, because a timer each would take longer to set than a plain answer to read.
"""

from __future__ import annotations

import asyncio
import math
from heapq import heapify, heappop, heappush
from types import TracebackType
from typing import Any, Self

MAX_REMOVED = 256
"""Removed deadlines that are kept even if they are most of all."""


class _Deadline:
    __slots__ = ("at", "timeout")

    def __init__(self, at: float, timeout: TaskTimeout) -> None:
        self.at = at
        """The event loop's time."""
        self.timeout: TaskTimeout | None = timeout
        """`None`: removed."""


class Deadlines:
    """The deadlines of all tasks, with a timer for the first one. Belongs to one event loop."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Deadline]] = []
        """By time; the number breaks ties."""
        self._added = 0
        self._removed = 0
        """The number of removed ones in the heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf

    def __len__(self) -> int:
        """The number kept, including removed ones."""
        return len(self._heap)

    def add(self, at: float, timeout: TaskTimeout) -> _Deadline:
        """Calls `timeout.passed` at the event loop's time `at`."""
        deadline = _Deadline(at, timeout)
        self._added += 1
        heappush(self._heap, (at, self._added, deadline))
        if at < self._fires_at:
            self._set(at)
        return deadline

    def remove(self, deadline: _Deadline) -> None:
        """Must not have passed."""
        deadline.timeout = None
        self._removed += 1
        if self._removed > MAX_REMOVED and self._removed > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].timeout is not None]
            heapify(self._heap)
            self._removed = 0

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at = asyncio.get_running_loop().call_at(at, self._fire), at

    def _fire(self) -> None:
        self._timer, self._fires_at = None, math.inf
        now = asyncio.get_running_loop().time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].timeout is None):
            timeout = heappop(self._heap)[2].timeout
            if timeout is None:
                self._removed -= 1
            else:
                timeout.passed(now)
        if self._heap and self._heap[0][0] < self._fires_at:
            self._set(self._heap[0][0])


class TaskTimeout:
    """A timeout for one waiting task at a time. The owner calls `close`."""

    __slots__ = (
        "_cancelling",
        "_deadline",
        "_deadlines",
        "_end",
        "_fired",
        "_idle",
        "_task",
        "_until",
        "heard_at",
        "loop",
    )

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._deadline: _Deadline | None = None
        """At or before the end of the present wait."""
        self._task: asyncio.Task[Any] | None = None
        self.loop = asyncio.get_running_loop()
        self._until = math.inf
        """The deadline of the present wait, in event loop time; infinite between waits."""
        self._idle = math.inf
        self._end = math.inf
        """The arguments of `idle` during such a wait; infinite in any other."""
        self.heard_at = 0.0
        """The event loop's time of the last sign of life, to be set by the owner during such a wait."""
        self._fired = False
        self._cancelling = 0

    def within(self, seconds: float) -> Self:
        """`with timeout.within(5): await ...` raises `TimeoutError` after 5 seconds."""
        return self.until(self.loop.time() + seconds)

    def until(self, until: float) -> Self:
        """Like `within`, with a deadline in event loop time."""
        self._idle = math.inf
        return self._set(until)

    def idle(self, seconds: float, end: float) -> Self:
        """Like `until` with `end`, and at most this time after `heard_at`, which is set to now."""
        self.heard_at = self.loop.time()
        self._idle, self._end = seconds, end
        return self._set(min(self.heard_at + seconds, end))

    def _set(self, until: float) -> Self:
        self._until = until
        if self._deadline is None or until < self._deadline.at:
            self.close()
            self._deadline = self._deadlines.add(until, self)
        return self

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task(self.loop)
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
        if self._deadline is not None:
            self._deadlines.remove(self._deadline)
            self._deadline = None

    def passed(self, now: float) -> None:
        """Called by `Deadlines`: the deadline has passed."""
        self._deadline = None
        if self._until < math.inf and self._idle < math.inf:
            self._until = min(self.heard_at + self._idle, self._end)
        if self._until <= now:
            self._fired = True
            self._until = math.inf
            assert self._task is not None
            self._task.cancel()
        elif self._until < math.inf:
            self._deadline = self._deadlines.add(self._until, self)
