"""A client that closed its sending half is probed, and its connection aborted once it has been reset."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from codellama_proxy.server.half_closed import CLOSED_CHECK_SECONDS, HalfClosedWatch
from codellama_proxy.web.connection import ON_HALF_CLOSE

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Transport:
    """The server's side of a TCP connection, without an event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.sock


@contextlib.contextmanager
def connected() -> Iterator[tuple[Transport, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with client, accepted:
        yield Transport(accepted), client


def answering(*, started: bool = False, **scope: Any) -> Any:
    return SimpleNamespace(response_started=started, scope=scope)


def watched(transport: Transport, cycle: Any, *, heartbeat: float = 60.0, checks: float = 2.5) -> None:
    async def main() -> None:
        watch = HalfClosedWatch(transport, heartbeat, lambda: cycle)
        await asyncio.sleep(CLOSED_CHECK_SECONDS * checks)
        watch.stop()

    asyncio.run(main())


def test_before_a_response_an_interim_response_is_sent_at_once_and_at_each_heartbeat() -> None:
    with connected() as (transport, _):
        watched(transport, answering(), checks=0)
        assert transport.sent == [CONTINUE]
        watched(transport, answering(), heartbeat=0.0)
        assert len(transport.sent) >= 3
        assert set(transport.sent) == {CONTINUE}
        assert not transport.aborted


def test_in_a_stream_a_comment_is_sent_and_in_a_plain_response_nothing() -> None:
    comments: list[str] = []
    with connected() as (transport, _):
        watched(
            transport, answering(started=True, **{ON_HALF_CLOSE: lambda: comments.append("sent")}), checks=0
        )
        watched(transport, answering(started=True), checks=0)
        assert (comments, transport.sent) == (["sent"], [])


def test_a_connection_that_was_reset_is_aborted() -> None:
    with connected() as (transport, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        watched(transport, answering())
        assert transport.aborted
