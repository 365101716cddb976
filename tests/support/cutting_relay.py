"""A TCP relay in front of PostgreSQL's unix socket that cuts connections around a COMMIT, before, after or late.

`python -m tests.support.cutting_relay PORT SOCKET SHARE`: SHARE of the commits are cut.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from typing import Literal, get_args

Cut = Literal["never", "at once", "answered late", "delivered late"]
"""When the server gets a COMMIT that stays unanswered for the client."""
LEDGER = b"commit\0"
"""How transactions of the ledger end."""
DRIVER = b"COMMIT\0"
"""How the driver ends a transaction."""


class CommitRelay:
    """Listens on a loopback port. Cuts as many connections as `cut_next` says, or as `choose` says at each commit."""

    def __init__(
        self, path: str, *, commit: bytes = DRIVER, choose: Callable[[], Cut | None] | None = None
    ) -> None:
        """`path`: of the server's socket; `commit`: the statement at which connections are cut."""
        self._path = path
        self._commit = commit
        self._choose = choose or self._planned
        self._plan: list[Cut] = []
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._refusing = False
        self._holding = False
        self._arrivals = asyncio.Event()
        """New connections wait for it."""
        self._arrivals.set()
        self.cuts = 0
        self.late_seconds = 0.15
        """How late a COMMIT is that is delivered late; the server ends a transaction that waits for 1 s."""

    def cut_next(self, cut: Cut, times: int = 1, *, hold: bool = False) -> None:
        """`hold`: connections after the cut wait for `lead_to`."""
        self._plan = [cut] * times
        self._holding = hold

    def refuse(self, refusing: bool) -> None:
        """Whether to be as a server that is not there: open connections are cut, new ones at once."""
        self._refusing = refusing
        if refusing:
            for task in self._open:
                task.cancel()

    def lead_to(self, path: str) -> None:
        """Lead new connections, and those that wait, to another server's socket."""
        self._path = path
        self._arrivals.set()

    def delay_next(self, seconds: float) -> None:
        """Pass the next commit on later, as from a process that does not get the processor."""
        self._delay = seconds

    def _planned(self) -> Cut | None:
        return self._plan.pop() if self._plan else None

    async def open(self, port: int = 0) -> int:
        """Begin to listen; returns the port."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", port)
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(client, answers))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _handle(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        if self._refusing:
            answers.transport.abort()
            return
        await self._arrivals.wait()
        try:
            replies, server = await asyncio.open_unix_connection(self._path)
        except OSError:
            answers.transport.abort()
            return
        cut = asyncio.Event()

        async def to_server() -> None:
            while data := await client.read(65536):
                if self._delay and self._commit in data:
                    seconds, self._delay = self._delay, 0.0
                    await asyncio.sleep(seconds)
                how = self._choose() if self._commit in data else None
                if how is not None:
                    self.cuts += 1
                    cut.set()
                    if self._holding:
                        self._arrivals.clear()
                    await self._cut(how, data, server, answers)
                    return
                server.write(data)
                await server.drain()

        async def to_client() -> None:
            while data := await replies.read(65536):
                if cut.is_set():
                    return
                answers.write(data)
                await answers.drain()

        try:
            tasks = [asyncio.create_task(to_server()), asyncio.create_task(to_client())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(tasks[:1], timeout=0.5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            answers.transport.abort()
            server.transport.abort()

    async def _cut(
        self, how: Cut, data: bytes, server: asyncio.StreamWriter, answers: asyncio.StreamWriter
    ) -> None:
        if how == "never":
            server.write(data[: data.index(self._commit)])
            await server.drain()
        elif how == "delivered late":  # the transaction outlives its client
            answers.transport.abort()
            await asyncio.sleep(self.late_seconds)
            server.write(data)
            await server.drain()
            await asyncio.sleep(0.02)
        else:
            server.write(data)
            await server.drain()
            await asyncio.sleep(random.random() * 0.004 if how == "answered late" else 0)
        answers.transport.abort()


async def _main(port: int, path: str, share: float) -> None:
    def choose() -> Cut | None:
        return random.choice(get_args(Cut)) if random.random() < share else None

    await CommitRelay(path, commit=LEDGER, choose=choose).open(port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
