"""The least that any relay on this event loop takes: passes bytes between two sockets without parsing them.

python -m bench.sockets PORT UPSTREAM_PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvloop


class End(asyncio.Protocol):
    """One end of a connection; what it receives goes to the other one."""

    def __init__(self, other: asyncio.WriteTransport | None = None) -> None:
        self.other = other

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class Client(End):
    """The client's end; the upstream is connected to once it has sent something."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__()
        self._upstream_port = upstream_port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._connecting = asyncio.ensure_future(self._connect(data))
        else:
            self.other.write(data)

    async def _connect(self, data: bytes) -> None:
        self.other, _ = await asyncio.get_running_loop().create_connection(
            lambda: End(self._transport),  # type: ignore[arg-type]  # uvloop's is no subclass
            "127.0.0.1",
            self._upstream_port,
        )
        self.other.write(data)


async def main(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(upstream_port), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
