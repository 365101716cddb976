"""`python -m tests.support.upstream --port 0 --journal FILE`: prints its port as the first line, then serves."""

from __future__ import annotations

import argparse
import asyncio
import collections
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from tests.support.upstream.call import Call, EndedError, head
from tests.support.upstream.journal import Journal
from tests.support.upstream.play import play
from tests.support.upstream.script import ScriptError, Scripts, Step
from tests.support.upstream.wire import Connection, GoneError, Protocol, Received

PATHS = ("/chat/completions", "/completions", "/embeddings")


class Upstream:
    """What all connections share: scripts, gates, numbers, the journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.scripts = Scripts()
        self.gates: dict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)
        self.connections: Iterator[int] = itertools.count(1)
        self.requests: Iterator[int] = itertools.count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(next(self.connections), reader, writer, self.journal)
        watching = asyncio.ensure_future(connection.watch())
        try:
            while request := await connection.receive():
                connection.answering = number = next(self.requests)
                await self.answer(number, request, connection)
                connection.answering = None
        except (GoneError, EndedError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await connection.close()
            await watching

    async def answer(self, number: int, request: Received, connection: Connection) -> None:
        if request.path.startswith("/gate/"):
            self.gates[request.path.removeprefix("/gate/")].set()
            return await connection.send(b"HTTP/1.1 204 Open\r\n\r\n")
        body = request.body
        self.journal.write(
            "request",
            request=number,
            connection=connection.number,
            method=request.method,
            path=request.path,
            headers=request.headers,
            body=body,
        )
        if request.method != "POST" or not request.path.endswith(PATHS) or not isinstance(body, dict):
            return await self._refuse(connection, f"no such thing as {request.method} {request.path}")
        try:
            step = self.scripts.next(str(body.get("model", "")))
        except ScriptError as mistake:
            self.journal.write("bad_script", request=number, message=str(mistake))
            return await self._refuse(connection, str(mistake))
        await play(self._call(number, request, step, connection))
        return None

    def _call(self, number: int, request: Received, step: Step, connection: Connection) -> Call:
        return Call(number, request, request.body, step, connection, self.gates[step.label])

    async def _refuse(self, connection: Connection, message: str) -> None:
        shown = {"message": message, "type": "invalid_request_error", "param": None, "code": "bad_script"}
        data = json.dumps({"error": shown}).encode()
        await connection.send(head(Step("upstream", {}), 400, {"content-length": str(len(data))}) + data)


async def main(port: int, journal: Path) -> None:
    loop = asyncio.get_running_loop()
    upstream = Upstream(Journal(journal))

    def protocol() -> Protocol:
        reader = asyncio.StreamReader(limit=2**20, loop=loop)
        return Protocol(reader, upstream.serve, loop=loop)

    server = await loop.create_server(protocol, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.support.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path, required=True)
    run = functools.partial(main, **vars(parser.parse_args()))
    asyncio.run(run())
