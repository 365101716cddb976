"""Streams at the pace of a model: a token every 20 ms, hundreds at once, on one core of the server.

    python -m bench.paced [--streams 500] [--seconds 4] [--rounds 3]

Each chunk carries the time at which its upstream sent it, so its delay is what the server and the two sockets take. CPU
time is that of all threads of the server, while all streams run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from bench.compare import chosen, interleaved
from bench.instant import HEAD, Instant, spoken
from bench.load import chat, requests
from bench.processes import LOAD_CORE, aside, cpu_seconds, free_port, listening, python, running
from bench.tables import Section, at_most, figure, table
from bench.targets import Target, at, config, proxy, relay

PACE_SECONDS = 0.02
RAMP_SECONDS = 1.0
"""In which the streams begin, one after another, so that their chunks are spread over time."""
MAX_BEGIN_SECONDS = 20.0
"""Until all streams have begun."""
HOW = """\
{streams} streams at once, each with a token every 20 ms, begun one after another. Each chunk carries the time at which
the upstream sent it; its delay is what the server and both sockets take. The upstream and the clients share a core, so
the delays of `direct`, without a server, and of the relay show how much of the proxy's is theirs."""
DIRECT = "direct"
_SENT = re.compile(rb'"content":"(\d+) "')


class PacedUpstream(Instant):
    """Streams without end, in chunks that say when they were sent, in ns of the monotonic clock."""

    def answer(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            super().answer(head, body)
            return
        self._next = asyncio.get_running_loop().time()
        self.transport.write(HEAD)  # type: ignore[attr-defined]
        self._send()

    def _send(self) -> None:
        if self.transport.is_closing():  # type: ignore[attr-defined]
            return
        self.transport.write(spoken(f"{time.monotonic_ns()} "))  # type: ignore[attr-defined]
        self._next += PACE_SECONDS
        asyncio.get_running_loop().call_at(self._next, self._send)


class Reader(asyncio.Protocol):
    """One stream's client."""

    def __init__(self, asked: bytes, delays: list[int]) -> None:
        self._asked = asked
        self._delays = delays
        self._left = b""
        self.has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._asked)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data = self._left + data
        end = 0
        for found in _SENT.finditer(data):
            self._delays.append(now - int(found[1]))
            self.has_begun = True
            end = found.end()
        self._left = data[max(end, len(data) - 200) :]


async def load(url: str, key: str, streams: int, seconds: float, pid: int) -> dict[str, float]:
    place = urlsplit(url)
    asked = requests(place, [key], [], chat(stream=True, unique=True))
    loop = asyncio.get_running_loop()
    delays: list[int] = []
    pairs = []
    for _ in range(streams):
        pair = await loop.create_connection(
            lambda: Reader(next(asked), delays), place.hostname or "", place.port or 80
        )
        pairs.append(pair)
        await asyncio.sleep(RAMP_SECONDS / streams)
    with contextlib.suppress(TimeoutError):  # what has begun is measured
        async with asyncio.timeout(MAX_BEGIN_SECONDS):
            while not all(reader.has_begun for _, reader in pairs):
                await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    delays.clear()
    cpu, started = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, took = cpu_seconds(pid) - cpu, time.monotonic() - started
    found = sorted(delays)
    begun = sum(reader.has_begun for _, reader in pairs)
    for transport, _ in pairs:
        transport.abort()
    if not found:
        raise SystemExit(f"no chunk arrived in {took:.1f} s; {begun} of {streams} streams had begun")
    return {
        "begun": begun,
        "core": cpu / took,
        "cpu_us": cpu / len(found) * 1e6,
        "per_second": len(found) / took,
        "p50_ms": found[len(found) // 2] / 1e6,
        "p99_ms": found[int(len(found) * 0.99)] / 1e6,
    }


def call(target: Target, streams: int, seconds: float) -> dict[str, float]:
    options = ["--load", target.url, "--key", target.key, "--pid", target.pid]
    options += ["--streams", streams, "--seconds", seconds]
    command = ["taskset", "-c", str(LOAD_CORE), *python("bench.paced", *options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stderr.splitlines()[-1]}")
    time.sleep(1.0)  # the ends of the streams are not the next target's
    return dict(json.loads(done.stdout))


def measured(streams: int, seconds: float, rounds: int) -> Mapping[str, Mapping[str, float]]:
    """The medians of the relay and of the proxy, by name."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        serving = running(python("bench.paced", "--serve", port), LOAD_CORE, lambda: listening(port))
        upstream = Target(DIRECT, at(port), pid=stack.enter_context(serving).pid)
        targets = [upstream, stack.enter_context(relay(upstream, "asgi relay", "--asgi"))]
        for name, cache in (("proxy", "{}"), ("proxy, no cache", "{enabled: false}")):
            place = directory / name
            place.mkdir()
            targets.append(stack.enter_context(proxy(place, config(upstream, cache=cache), name)))
        turns = {target.name: functools.partial(call, target, streams, seconds) for target in targets}
        return {name: chosen(runs, statistics.median) for name, runs in interleaved(turns, rounds).items()}


def paced(streams: int, seconds: float, rounds: int) -> Section:
    found = measured(streams, seconds, rounds)
    rows = [
        (
            name,
            f"{one['begun']:.0f}",
            *(("", "") if name == DIRECT else (f"{one['core']:.0%}", f"{one['cpu_us']:.1f}")),
            figure(one["per_second"]),
            figure(one["p50_ms"]),
            figure(one["p99_ms"]),
        )
        for name, one in found.items()
    ]
    header = ["", "streams", "of the core", "CPU µs/chunk", "chunks/s", "delay p50 ms", "delay p99 ms"]
    shown = table(header, rows)
    what, ours = f"{streams} streams of a token each 20 ms, cache on", found["proxy"]
    needed = ours["cpu_us"] * streams / PACE_SECONDS / 1e6  # more than it took if chunks waited
    goals = (
        at_most(f"{what}: of the core for all chunks", max(ours["core"], needed), 0.6, "{:.0%}"),
        at_most(f"{what}: delay of a chunk, p99", ours["p99_ms"], 5.0, "{:.1f} ms"),
    )
    return Section("Streams at the pace of a model", f"{HOW.format(streams=streams)}\n\n{shown}", goals)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(PacedUpstream, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--key", default="none", help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(serve(args.serve))
    elif args.load:
        print(json.dumps(uvloop.run(load(args.load, args.key, args.streams, args.seconds, args.pid))))
    else:
        aside()
        print(paced(args.streams, args.seconds, args.rounds))


if __name__ == "__main__":
    sys.exit(main())
