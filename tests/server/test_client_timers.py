"""Clients that do not read are cut off; slow ones are not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from codellama_proxy.server.client_timers import MIN_READ_BYTES, ClientTimers, unread_bytes
from codellama_proxy.web.connection import ClientTimeouts
from tests.support.cases import each


class Loop(asyncio.BaseEventLoop):
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        super().__init__()
        self.later: list[Callable[[], object]] = []

    def call_later(self, delay, callback, *args, context=None):  # type: ignore[no-untyped-def]  # asyncio's
        assert delay == ClientTimeouts().send
        self.later.append(callback)
        return asyncio.TimerHandle(0, callback, args, self)


@each(
    ("unread", "aborted"),
    [
        ([MIN_READ_BYTES * 9, MIN_READ_BYTES * 8, MIN_READ_BYTES * 7, MIN_READ_BYTES], False),
        ([MIN_READ_BYTES * 9, MIN_READ_BYTES * 9], True),
        ([MIN_READ_BYTES * 9, MIN_READ_BYTES * 8, MIN_READ_BYTES * 8 - 1], True),
        ([MIN_READ_BYTES // 2, MIN_READ_BYTES // 4], True),
    ],
)
def test_a_client_that_reads_slowly_is_not_cut_off(unread: list[int], aborted: bool) -> None:
    loop, left, aborts = Loop(), [*unread], []
    timers = ClientTimers(loop, ClientTimeouts(), lambda: None)
    timers.await_reading(lambda: aborts.append(True), lambda: left[0])
    while len(left) > 1:
        assert not aborts
        del left[0]
        loop.later.pop()()
    assert bool(aborts) is aborted
    timers.has_read()
    loop.close()


def test_unread_output_includes_what_the_kernel_holds() -> None:
    async def run() -> None:
        reader, peer = socket.socketpair()
        with contextlib.closing(reader):
            reader.setblocking(False)
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=peer)
            transport.write(b"x" * 5_000_000)
            before = unread_bytes(transport)
            assert before > transport.get_write_buffer_size()
            read = sum(len(reader.recv(65536)) for _ in range(2))
            assert read
            assert unread_bytes(transport) < before
            transport.abort()
            await asyncio.sleep(0)
            assert unread_bytes(transport) == 0

    asyncio.run(run())
