"""Streams at the pace of a model: a token every 20 ms, hundreds at once, on one core of the server.

    python -m bench.paced [--streams 500] [--seconds 4] [--rounds 3]

One process is the upstream and all clients. Each chunk carries the time at which it was sent; its delay ends at the
time at which the kernel received it for the client, so it does not contain what this process takes to read it. CPU time
is that of all threads of the server, while all streams run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from bench.compare import chosen, interleaved
from bench.instant import HEAD, spoken
from bench.load import chat, requests
from bench.processes import (
    LOAD_CORE,
    SERVER_CORE,
    aside,
    cpu_seconds,
    free_port,
    listening,
    python,
    running,
)
from bench.tables import Section, at_most, figure, table
from bench.targets import Target, at, config, proxy, relay

PACE_SECONDS = 0.02
PATIENCE_SECONDS = 20.0
"""How long a stream may take to begin, and a server to read its input."""
BURST_SECONDS = 0.002
"""Chunks that are due within this time are sent together, before others are received."""
RAMP_SECONDS = 2.5
"""In which the streams begin, one after another, so that no two are at the same place of their answer."""
SETTLE_SECONDS = 0.5
"""Of all streams, before they are measured."""
HOW = """\
{streams} streams at once, each with a token every 20 ms, spread evenly over time. Each chunk carries the time at which
the upstream sent it; its delay ends when the kernel has received it for the client. The upstream and the clients are
one process on a core of their own. Where that process does not get its core, it leaves chunks out: fewer than
{per_second:,} a second, or long delays without a server (`direct`), are the machine's and not the server's. `sockets`
passes the bytes on without reading them, over the same event loop: what the kernel takes for it, no server here can
save. A server that is not busy wakes up for nearly every chunk; a busier one reads several at once,
which costs less."""
DIRECT = "direct"
READ_BYTES = 1 << 16
_SENT = re.compile(rb'"content":"(\d+) "')
_STAMP = "1" * 19
_BEFORE, _AFTER = spoken(f"{_STAMP} ").split(_STAMP.encode())
_TIME = struct.Struct("@qq")
_SO_TIMESTAMPNS = 35
"""Linux: each read comes with the time at which its last byte was received, in seconds and nanoseconds."""
_TIME_BYTES = socket.CMSG_SPACE(_TIME.size)


class Streams:
    """The upstream and the clients of endless streams. A chunk is sent to each in turn, at even intervals."""

    def __init__(self, url: str, key: str, upstream_port: int, count: int) -> None:
        place = urlsplit(url)
        self._address = (place.hostname or "", place.port or 80)
        self._asked = requests(place, [key], [], chat(stream=True, unique=True))
        self._listener = socket.create_server(("127.0.0.1", upstream_port), backlog=2048)
        self._listener.settimeout(PATIENCE_SECONDS)
        self._upstream: list[socket.socket] = []
        self._clients: dict[int, socket.socket] = {}
        self._ready = select.epoll()
        self._step = PACE_SECONDS / count
        self._next = 0
        """The number of the next chunk over all streams."""
        self.delays: list[int] = []
        """Of each chunk received, in nanoseconds."""
        for _ in range(count):
            self._begin()

    def _begin(self) -> None:
        """Opens one stream, up to its second chunk."""
        client = socket.create_connection(self._address, timeout=PATIENCE_SECONDS)
        client.sendall(next(self._asked))
        upstream, _ = self._listener.accept()
        upstream.settimeout(PATIENCE_SECONDS)
        received = b""
        while b'"stream"' not in received:
            received += upstream.recv(READ_BYTES)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream.sendall(HEAD + spoken("first "))
        while not client.recv(READ_BYTES).endswith(b"\n\n\r\n"):
            pass
        client.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        client.setblocking(False)
        self._upstream.append(upstream)
        self._clients[client.fileno()] = client
        self._ready.register(client, select.EPOLLIN)

    def run(self, seconds: float, *, ramp: bool = False) -> None:
        """Sends and receives at the pace. Chunks that are late by more than `PACE_SECONDS` are left out.

        `ramp`: the streams begin one after another.
        """
        began = now = due = time.monotonic()
        end, count = began + seconds, len(self._upstream)
        running = count
        while now < end:
            if now - due > PACE_SECONDS:
                due = now
            if ramp:
                running = int(count * (now - began) / seconds)
            until = min(now, due + BURST_SECONDS)
            while due < until:
                which = self._next % count
                if which < running:
                    self._upstream[which].send(b"%b%d%b" % (_BEFORE, time.time_ns(), _AFTER))
                self._next += 1
                due += self._step
            for number, _ in self._ready.poll(self._step):
                self._receive(self._clients[number])
            now = time.monotonic()

    def _receive(self, client: socket.socket) -> None:
        data, control, _, _ = client.recvmsg(READ_BYTES, _TIME_BYTES)
        if not data:
            raise SystemExit("the server ended a stream")
        seconds, nanoseconds = _TIME.unpack(control[0][2])
        at = seconds * 10**9 + nanoseconds
        self.delays += [at - int(sent) for sent in _SENT.findall(data)]

    def close(self) -> None:
        for one in (*self._clients.values(), *self._upstream, self._listener):
            one.close()


def load(url: str, key: str, upstream_port: int, count: int, seconds: float, pid: int) -> dict[str, float]:
    with contextlib.closing(Streams(url, key, upstream_port, count)) as streams:
        streams.run(RAMP_SECONDS, ramp=True)
        streams.run(SETTLE_SECONDS)
        streams.delays.clear()
        cpu, own, started = cpu_seconds(pid), time.process_time(), time.monotonic()
        streams.run(seconds)
        took = time.monotonic() - started
        cpu, own = cpu_seconds(pid) - cpu, time.process_time() - own
        found = sorted(streams.delays)
    return {
        "core": cpu / took,
        "load": own / took,
        "cpu_us": cpu / len(found) * 1e6,
        "per_second": len(found) / took,
        "p50_ms": found[len(found) // 2] / 1e6,
        "p99_ms": found[int(len(found) * 0.99)] / 1e6,
    }


def call(target: Target, upstream_port: int, streams: int, seconds: float) -> dict[str, float]:
    options = [
        "--load",
        target.url,
        "--key",
        target.key,
        "--pid",
        target.pid or 0,
        "--upstream",
        upstream_port,
    ]
    options += ["--streams", streams, "--seconds", seconds]
    command = ["taskset", "-c", str(LOAD_CORE), *python("bench.paced", *options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stderr.splitlines()[-1]}")
    time.sleep(1.0)  # the ends of the streams are not the next target's
    return dict(json.loads(done.stdout))


def measured(streams: int, seconds: float, rounds: int) -> Mapping[str, Mapping[str, float]]:
    """The medians of each target, by name."""
    port = free_port()
    upstream = Target(DIRECT, at(port))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = free_port()
        passing = running(python("bench.sockets", bare, port), SERVER_CORE, lambda: listening(bare))
        targets = [upstream, Target("sockets", at(bare), pid=stack.enter_context(passing).pid)]
        with running(python("bench.instant", port), LOAD_CORE, lambda: listening(port)):
            targets.append(stack.enter_context(relay(upstream, "asgi relay", "--asgi")))
            for name, cache in (("proxy", "{}"), ("proxy, no cache", "{enabled: false}")):
                place = directory / name
                place.mkdir()
                targets.append(stack.enter_context(proxy(place, config(upstream, cache=cache), name)))
        turns = {one.name: functools.partial(call, one, port, streams, seconds) for one in targets}
        return {name: chosen(runs, statistics.median) for name, runs in interleaved(turns, rounds).items()}


def paced(streams: int, seconds: float, rounds: int) -> Section:
    found = measured(streams, seconds, rounds)
    rows = [
        (
            name,
            *(("", "") if name == DIRECT else (f"{one['core']:.0%}", f"{one['cpu_us']:.1f}")),
            figure(one["per_second"]),
            figure(one["p50_ms"]),
            figure(one["p99_ms"]),
            f"{one['load']:.0%}",
        )
        for name, one in found.items()
    ]
    header = [
        "",
        "of the core",
        "CPU µs/chunk",
        "chunks/s",
        "delay p50 ms",
        "delay p99 ms",
        "of the load's core",
    ]
    shown = table(header, rows)
    what, ours = f"{streams} streams of a token each 20 ms, cache on", found["proxy"]
    needed = ours["cpu_us"] * streams / PACE_SECONDS / 1e6  # more than it took if chunks waited
    goals = (
        at_most(f"{what}: of the core for all chunks", max(ours["core"], needed), 0.6, "{:.0%}"),
        at_most(f"{what}: delay of a chunk, p99", ours["p99_ms"], 5.0, "{:.1f} ms"),
    )
    return Section(
        "Streams at the pace of a model",
        f"{HOW.format(streams=streams, per_second=int(streams / PACE_SECONDS))}\n\n{shown}",
        goals,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--key", default="none", help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load, args.key, args.upstream, args.streams, args.seconds, args.pid)))
    else:
        aside()
        print(paced(args.streams, args.seconds, args.rounds))


if __name__ == "__main__":
    sys.exit(main())
