"""The load: so many connections, each sending its next request when it has the whole answer.

    python -m bench.load URL --connections 32 --seconds 5 [--stream] [--key sk-...] [--header NAME:VALUE]

Prints one JSON object: requests per second, latencies in milliseconds, and its own CPU time for a request in µs. Raw
asyncio, so that it costs little.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import uvloop

PROMPT = "write me a function to print hello world"


def chat(*, stream: bool, fields: str = "{}", unique: bool = False) -> bytes:
    """The body of a request; `fields` are more of it, as JSON; a `unique` one is numbered by `requests`."""
    messages = [{"role": "user", "content": f"{PROMPT} {NUMBER}" if unique else PROMPT}]
    asked = {"model": "bench", "messages": messages, "user": "bench", "stream": stream}
    return json.dumps({**asked, **json.loads(fields)}).encode()


def request_body(path: str, *, stream: bool, fields: str = "{}", unique: bool = False) -> bytes:
    """What `chat` asks, in the form of the API at `path`."""
    asked = json.loads(chat(stream=stream, fields=fields, unique=unique))
    if path.endswith("/messages"):
        del asked["user"]
        asked["max_tokens"] = 1000
    elif path.endswith("/responses"):
        asked["input"] = asked.pop("messages")
    return json.dumps(asked).encode()


NUMBER = "00000000"
"""Stands in a prompt that is to be another one in each request, and is counted up there."""


def requests(
    url: SplitResult, keys: Sequence[str], headers: Sequence[str], body: bytes, *, in_turn: bool = False
) -> Iterator[bytes]:
    """Whole requests, for ever: the same one, one with its number in the prompt, or each with any of many keys.

    `in_turn`: with one key after another instead.
    """
    head = f"POST {url.path} HTTP/1.1\r\nhost: {url.netloc}\r\n" + "".join(
        f"{header}\r\n" for header in headers
    )
    rest = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    one = [f"{head}authorization: Bearer {key}\r\n".encode() + rest for key in keys]
    if len(one) == 1:
        before, number, after = one[0].rpartition(NUMBER.encode())
        if number:
            first = random.Random().randrange(10**7)
            return (b"%b%08d%b" % (before, count, after) for count in itertools.count(first))
        return itertools.repeat(one[0])
    if in_turn:
        return itertools.cycle(one)
    dice = random.Random()
    return (dice.choice(one) for _ in itertools.count())


@dataclass
class Work:
    """What the connections share."""

    requests: Iterator[bytes]
    until: float
    left: int
    expected: bytes
    """How an answer begins."""
    latencies: list[float]

    def over(self) -> bool:
        return self.left <= 0 or time.perf_counter() >= self.until


class Caller(asyncio.Protocol):
    """One connection that asks again and again until the work is over."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._work.left -= 1
        self._started = time.perf_counter()
        self._transport.write(next(self._work.requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._whole():
            return
        if not self._buffer.startswith(self._work.expected):
            self._end(ValueError(f"not {self._work.expected!r}: {self._buffer[:500]!r}"))
            return
        self._buffer = b""
        self._work.latencies.append(time.perf_counter() - self._started)
        if self._work.over():
            self._end(None)
        else:
            self._ask()

    def _whole(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            return self._buffer.endswith(b"0\r\n\r\n")
        return len(self._buffer) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("closed early"))


async def run(url: SplitResult, connections: int, work: Work) -> dict[str, float]:
    started = time.perf_counter()
    work.until += started
    loop = asyncio.get_running_loop()
    pairs = [
        await loop.create_connection(lambda: Caller(work), url.hostname or "", url.port or 80)
        for _ in range(connections)
    ]
    before = time.process_time()
    await asyncio.gather(*(caller.done for _, caller in pairs))
    took = time.perf_counter() - started
    used = time.process_time() - before
    latencies = sorted(work.latencies)
    return {
        "per_second": round(len(latencies) / took, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
        "load_us": round(used / len(latencies) * 1e6, 1),
        "requests": len(latencies),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", type=urlsplit)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--requests", type=int, default=1 << 62, help="end after so many")
    parser.add_argument("--key", default="none")
    parser.add_argument(
        "--keys", type=Path, help="a file of keys, one a line: each request takes any of them"
    )
    parser.add_argument("--in-turn", action="store_true", help="one of the --keys after another instead")
    parser.add_argument("--header", action="append", default=[], help="one more for each request: NAME:VALUE")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--unique", action="store_true", help="another prompt in each request")
    parser.add_argument("--fields", default="{}", help="more for the body, as JSON")
    parser.add_argument("--expect", type=int, default=200, help="the status that every answer has to have")
    args = parser.parse_args()
    keys = args.keys.read_text().split() if args.keys else [args.key]
    body = request_body(args.url.path, stream=args.stream, fields=args.fields, unique=args.unique)
    asked = requests(args.url, keys, args.header, body, in_turn=args.in_turn)
    work = Work(asked, args.seconds, args.requests, f"HTTP/1.1 {args.expect}".encode(), [])
    print(json.dumps(uvloop.run(run(args.url, args.connections, work))))


if __name__ == "__main__":
    main()
