"""The timers of one connection that end it when its client is late: with a head or a body, or in reading responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codellama_proxy.web.connection import ClientTimeouts


class ClientTimers:
    """Calls `too_slow` when input is late, and `abort` when output is not read. Each timer is set only when needed."""

    __slots__ = ("_input", "_loop", "_reading", "_timeouts", "_too_slow")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeouts: ClientTimeouts, too_slow: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._timeouts = timeouts
        self._too_slow: Callable[[], None] | None = too_slow
        self._input: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def await_head(self) -> None:
        """A head is awaited from now on, unless input is awaited already."""
        self._await_input(self._timeouts.head)

    def await_body(self) -> None:
        """The rest of a body is awaited from now on, unless input is awaited already."""
        self._await_input(self._timeouts.body)

    def input_arrived(self) -> None:
        """The head or body has arrived, or is no longer awaited."""
        if self._input is not None:
            self._input.cancel()
            self._input = None

    def await_reading(self, abort: Callable[[], None]) -> None:
        """The client has to read from now on."""
        if self._reading is None:
            self._reading = self._loop.call_later(self._timeouts.send, abort)

    def has_read(self) -> None:
        """The client has read enough."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def stop(self) -> None:
        """The connection is lost."""
        self.input_arrived()
        self.has_read()
        self._too_slow = None  # no cycle of references keeps the connection

    def _await_input(self, seconds: float) -> None:
        if self._input is None and self._too_slow is not None:
            self._input = self._loop.call_later(seconds, self._too_slow)
