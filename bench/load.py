"""The load: so many connections, each sending its next request when it has the whole answer.

    python -m bench.load URL --connections 32 --seconds 5 [--stream] [--key sk-...]

Prints one JSON object: requests per second and latencies in milliseconds. Raw asyncio, so that it costs little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit

import uvloop


class Caller(asyncio.Protocol):
    """One connection that asks again and again until `until`."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self._request = request
        self._until = until
        self._latencies = latencies
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._whole():
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not a 200: {self._buffer[:500]!r}")
        self._buffer = b""
        now = time.perf_counter()
        self._latencies.append(now - self._started)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self.done.set_result(None)

    def _whole(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            return self._buffer.endswith(b"0\r\n\r\n")
        return len(self._buffer) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed early"))


async def run(
    url: str, connections: int, seconds: float, key: str, *, stream: bool, fields: str = "{}"
) -> dict[str, float]:
    parts = urlsplit(url)
    messages = [{"role": "user", "content": "write me a function to print hello world"}]
    asked = {"model": "bench", "messages": messages, "user": "bench", "stream": stream, **json.loads(fields)}
    body = json.dumps(asked).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    latencies: list[float] = []
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(
            lambda: Caller(head.encode() + body, started + seconds, latencies), parts.hostname, parts.port
        )
        for _ in range(connections)
    ]
    await asyncio.gather(*(caller.done for _, caller in pairs))
    took = time.perf_counter() - started
    latencies.sort()
    return {
        "per_second": round(len(latencies) / took, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
        "requests": len(latencies),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--key", default="none")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--fields", default="{}", help="more for the body, as JSON")
    args = parser.parse_args()
    result = uvloop.run(
        run(args.url, args.connections, args.seconds, args.key, stream=args.stream, fields=args.fields)
    )
    print(json.dumps(result))
