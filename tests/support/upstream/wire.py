"""One HTTP/1.1 connection, by hand: requests come off it whole, answers go onto it as the bytes they are."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from tests.support.upstream.journal import Journal

LONGEST = 120.0
"""Seconds after which even a hang gives up, so that a lost test leaves nothing behind."""


class GoneError(Exception):
    """The peer hung up."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON, or the text if it is none."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return self.raw.decode("utf-8", "replace")

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class Protocol(asyncio.StreamReaderProtocol):
    """Notices at once that the peer hung up, also while nobody reads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool:
        self.gone.set()
        return bool(super().eof_received())

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(error)


class Connection:
    """What a script may do to its peer."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, journal: Journal
    ) -> None:
        self.number = number
        self.journal = journal
        self.answering: int | None = None
        """The request that is being answered."""
        self._ours = False
        self._reader = reader
        self._writer = writer
        protocol = writer.transport.get_protocol()
        assert isinstance(protocol, Protocol)
        self._gone = protocol.gone

    async def watch(self) -> None:
        """Journals the moment the peer hangs up."""
        await self._gone.wait()
        self.journal.write("closed", connection=self.number, request=self.answering, by_peer=not self._ours)

    async def receive(self) -> Received | None:
        """The next request; `None` when the peer wants no more."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines)
        headers = tuple((name.strip().lower(), value.strip()) for name, value in pairs)
        return Received(method, path, headers, await self._body(dict(headers)))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        parts = []
        while size := int((await self._reader.readline()).split(b";")[0], 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readline()
        while (await self._reader.readline()).strip():
            pass
        return b"".join(parts)

    async def send(self, data: bytes, *, byte_by_byte: bool = False) -> None:
        parts = [data[i : i + 1] for i in range(len(data))] if byte_by_byte else [data]
        for part in parts:
            if self._gone.is_set():
                raise GoneError
            try:
                self._writer.write(part)
                await self._writer.drain()
            except ConnectionError as error:
                raise GoneError from error
            if byte_by_byte:
                await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Waits, unless the peer hangs up before."""
        if seconds <= 0:
            return
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return
        raise GoneError

    async def wait_for(self, event: asyncio.Event) -> None:
        """Waits for a gate, unless the peer hangs up before."""
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._gone.wait())}
        _, late = await asyncio.wait(waits, timeout=LONGEST, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        if not event.is_set():
            raise GoneError

    async def hang(self) -> None:
        await self.sleep(LONGEST)
        raise GoneError

    async def close(self) -> None:
        self._ours = self._ours or not self._gone.is_set()
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return

    async def reset(self) -> None:
        """Closes with RST: lingering for zero seconds throws away what was not sent."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()
