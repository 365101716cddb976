"""A TCP relay in front of PostgreSQL's unix socket that kills its client in a chosen phase of a ledger transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Phase = Literal["before it", "before its decision", "after its commit", "after its flush"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_STATEMENTS = {
    "before it": b"update workers set beat_at",
    "before its decision": b"for no key update",
    "after its commit": b"commit\0",
    "after its flush": b"pg_logical_emit_message",
}
"""What the client sends in the phase, if statements are not prepared."""


class PhaseRelay:
    """`arm` it: the next transaction that gets to the phase is the client's last one. Serves on a thread."""

    def __init__(self, path: str, phase: Phase) -> None:
        """`path`: of the server's socket."""
        self._path = path
        self._phase = phase
        self._kill: Callable[[], None] | None = None
        self.killed = threading.Event()

    def arm(self, kill: Callable[[], None]) -> None:
        self._kill = kill

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            opened = asyncio.start_server(self._handle, "127.0.0.1", port)
            listener = asyncio.run_coroutine_threadsafe(opened, loop).result(10)
            yield
            loop.call_soon_threadsafe(listener.close)
        finally:
            asyncio.run_coroutine_threadsafe(_cancelled(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _handle(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        replies, server = await asyncio.open_unix_connection(self._path)
        reached = asyncio.Event()

        async def to_server() -> None:
            while data := await client.read(65536):
                if self._kill is not None and _STATEMENTS[self._phase] in data:
                    if self._phase == "before it":
                        self._end()
                        return
                    reached.set()
                server.write(data)
                await server.drain()

        async def to_client() -> None:
            while data := await replies.read(65536):
                if reached.is_set():
                    self._end()
                    return
                answers.write(data)
                await answers.drain()

        tasks = [asyncio.create_task(to_server()), asyncio.create_task(to_client())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            answers.transport.abort()
            server.transport.abort()

    def _end(self) -> None:
        if self._kill is not None and not self.killed.is_set():
            self._kill()
            self.killed.set()


async def _cancelled() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
