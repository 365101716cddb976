"""The timers of one connection that end it when its client is late: with a head or a body, or in reading responses."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable

from codellama_proxy.web.connection import ClientTimeouts

MIN_READ_BYTES = 16 << 10
"""What a client has to read in each `ClientTimeouts.send` while it is behind.

Progress shows in the kernel first: it takes more from the process only once much of its buffer of megabytes is empty.
"""


def unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes of output that the client has not acknowledged, in the process and in the kernel."""
    size = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    if socket is None:
        return size
    try:
        in_kernel = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed meanwhile
        return size
    return size + int.from_bytes(in_kernel, sys.byteorder)


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

    def await_reading(self, abort: Callable[[], None], unread: Callable[[], int]) -> None:
        """The client has to read from now on; `unread` returns what it has not read, in bytes."""
        if self._reading is None:
            self._await_progress(abort, unread)

    def _await_progress(self, abort: Callable[[], None], unread: Callable[[], int]) -> None:
        before = unread()

        def late() -> None:
            if unread() > before - MIN_READ_BYTES:
                abort()
            else:
                self._await_progress(abort, unread)

        self._reading = self._loop.call_later(self._timeouts.send, late)

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
