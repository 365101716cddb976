"""A TCP relay in front of PostgreSQL's unix socket that cuts connections around a COMMIT, before, after or late.

`python -m tests.support.cutting_relay PORT SOCKET SHARE`: SHARE of the commits are cut.
"""

from __future__ import annotations

import asyncio
import random
import sys

COMMIT = b"commit\0"


async def relay(port: int, path: str, share: float) -> None:
    async def handle(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            replies, server = await asyncio.open_unix_connection(path)
        except OSError:
            answers.transport.abort()
            return
        cut = asyncio.Event()

        async def to_server() -> None:
            while data := await client.read(65536):
                if COMMIT in data and random.random() < share:
                    await _cut(data, server, answers)
                    cut.set()
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

    listener = await asyncio.start_server(handle, "127.0.0.1", port)
    print("ready", flush=True)
    async with listener:
        await listener.serve_forever()


async def _cut(data: bytes, server: asyncio.StreamWriter, answers: asyncio.StreamWriter) -> None:
    how = random.choice(("never", "at once", "answered late", "delivered late"))
    if how == "never":  # the server does not get the COMMIT
        server.write(data[: data.index(COMMIT)])
        await server.drain()
    elif how == "delivered late":  # the transaction outlives its client
        answers.transport.abort()
        await asyncio.sleep(0.15)
        server.write(data)
        await server.drain()
        await asyncio.sleep(0.02)
    else:
        server.write(data)
        await server.drain()
        if how == "answered late":
            await asyncio.sleep(random.random() * 0.004)
    answers.transport.abort()


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
