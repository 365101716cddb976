"""Two servers on one database, behind a relay that gives them connections in turn, in the place of one server."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx2

from tests.support.processes import LOOPBACK, free_port
from tests.support.proxy_process import Proxy

PIECE_BYTES = 65536


class Relay:
    """Passes on bytes, ends and resets; the next connection goes to the next port. Runs on a thread."""

    def __init__(self, port: int, targets: Sequence[int]) -> None:
        self._targets = itertools.cycle(targets)
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()
        opened = asyncio.start_server(self._accept, "127.0.0.1", port)
        self._listener = asyncio.run_coroutine_threadsafe(opened, self._loop).result(20)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _close(self) -> None:
        self._listener.close()
        await asyncio.sleep(0.01)  # connections that were accepted before
        while self._open:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(client, answers))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _handle(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            replies, server = await asyncio.open_connection("127.0.0.1", next(self._targets))
        except OSError:
            answers.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(client, server))
                group.create_task(_pass_on(replies, answers))
        except (asyncio.CancelledError, ExceptionGroup):
            pass  # a reset of one side is one for the other
        else:
            answers.close()
            server.close()
            return
        answers.transport.abort()
        server.transport.abort()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(PIECE_BYTES):
        target.write(data)
        await target.drain()
    target.write_eof()


@dataclass
class TwoServers(Proxy):
    """Both have the same files and the same log."""

    _twin: Proxy | None = None
    _relay: Relay | None = None

    def start(self) -> Self:
        super().start()
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("env", "allow", "module", "launch")}
        alone = Proxy(self.config_path, self.database, self.log_path, key=self.key, **fields)
        self._twin = replace(alone, key_id=self.key_id).start()
        port = free_port()
        self._relay = Relay(port, (self.port, self._twin.port))
        self.port = port
        self.client.close()
        self._client = httpx2.Client(base_url=self.url, **LOOPBACK, timeout=60)
        return self

    def _end(self, how: signal.Signals) -> int:
        if self._twin is not None:
            self._twin._end(how)
        code = super()._end(how)
        if self._relay is not None:
            self._relay.close()
        self._twin = self._relay = None
        return code
