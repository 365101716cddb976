"""How soon it is ready, and what it holds: idle, after very many requests of every kind, and with idle streams open.

    python -m bench.memory [--requests 100000]

The requests are whole answers, streams, errors of the upstream, streams that it cuts off or does not count, and
clients that leave in the middle of a stream, all at once. What is read afterwards has to stay as it is while half as
many follow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load import chat
from bench.processes import LOAD_CORE, aside, python, resident_mb
from bench.tables import Section, at_most, figure, paragraph, table
from bench.targets import PATH, Target, config, database, proxy, ready, upstream
from codellama_proxy.store.sqlite.migrations import prepare

STARTS = 5
STREAMS = 1000
AT_ONCE = 50
REST = 2.0
"""Seconds until what was just closed is let go."""
FLAT_MB = 3.0
"""What two readings of the same differ by."""
MODEL = """\
  - {{name: {kind}, provider: openai_compatible, model: {model}, base_url: 'http://127.0.0.1:{port}/{kind}/v1',
     price: {{input: 1, output: 2}}, fallbacks: []}}
"""
KINDS = {"failing": "instant", "uncounted": "codellama", "cut": "gpt-4", "endless": "instant"}
"""What the upstream does, and a model's name that says by which vocabulary is counted what it does not."""
HOW = """\
Ready is what `/health/readiness` says. Then {total:,} requests from {clients} connections, all kinds at once: {shares}.
Of each stream that the upstream does not count or cuts off, or that its client leaves, the proxy counts the tokens
itself, for which it loads a vocabulary; that of OpenAI's newer models takes 48 MB more once it is needed. Then half as
many again: memory is flat if that adds nothing."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Part:
    """One kind of requests among all."""

    name: str
    share: float
    connections: int
    model: str = "bench"
    stream: bool = False
    status: int = 200


PARTS = (
    Part("whole answers", 0.60, 16),
    Part("streams", 0.22, 8, stream=True),
    Part("errors of the upstream", 0.05, 2, "failing", status=400),
    Part("streams without usage", 0.05, 4, "uncounted", stream=True),
    Part("streams that the upstream cuts off", 0.04, 2, "cut", stream=True),
)
LEAVING = Part("clients that leave in mid-stream", 0.04, 2, "endless", stream=True)


@dataclass(frozen=True)
class Held:
    """Resident memory, MB."""

    idle: float
    after: float
    later: float
    stream_kb: float


# --- readiness ---------------------------------------------------------------------------------------------------


def ready_seconds() -> float:
    """From the start of the process until it is ready, the median; the database is there, the files were read."""
    with tempfile.TemporaryDirectory() as name, upstream() as direct:
        directory = Path(name)
        prepare(database(directory))
        seen = [_once(directory, config(direct)) for _ in range(STARTS + 1)]
        return statistics.median(seen[1:])


def _once(directory: Path, text: str) -> float:
    with ready(directory, text) as process:
        return process.seconds


# --- requests of every kind --------------------------------------------------------------------------------------


@contextlib.contextmanager
def served() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as name, upstream() as direct:
        models = "".join(
            MODEL.format(kind=kind, model=model, port=direct.port) for kind, model in KINDS.items()
        )
        text = config(direct, models=models, routing="{retries: 0, cooldown: {failures: 1000}}")
        with proxy(Path(name), text) as target:
            yield target


def sent(target: Target, total: int) -> None:
    """So many requests of every kind, all kinds at once."""
    loads = [subprocess.Popen(_load(target, part, total), stdout=subprocess.DEVNULL) for part in PARTS]
    try:
        asyncio.run(leaving(target, round(LEAVING.share * total)))
        if sum(load.wait() for load in loads):
            raise SystemExit("answers were not as expected")
    finally:
        for load in loads:
            load.kill()


def _load(target: Target, part: Part, total: int) -> list[str]:
    options = ["--connections", part.connections, "--requests", round(part.share * total)]
    options += ["--seconds", 3600, "--expect", part.status, "--key", target.key]
    options += ["--fields", f'{{"model": "{part.model}"}}', *["--stream"] * part.stream]
    return ["taskset", "-c", str(LOAD_CORE), *python("bench.load", target.url, *options)]


async def leaving(target: Target, count: int) -> None:
    left = iter(range(count))

    async def one_after_another() -> None:
        for _ in left:
            _, writer = await begun(target)
            writer.transport.abort()

    await asyncio.gather(*(one_after_another() for _ in range(LEAVING.connections)))


async def begun(target: Target) -> Stream:
    """A stream that has said its first word; it lives as long as both its ends are kept."""
    body = chat(stream=True, fields='{"model": "endless"}')
    head = f"POST {PATH} HTTP/1.1\r\nhost: proxy\r\nauthorization: Bearer {target.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(head.encode() + body)
    await reader.readuntil(b"data: ")
    return reader, writer


# --- memory ------------------------------------------------------------------------------------------------------


def rested(target: Target) -> float:
    time.sleep(REST)
    return resident_mb(target.pid or 0)


async def opened(target: Target) -> tuple[float, float]:
    """Resident before and with so many streams that say nothing more."""
    warm = [await begun(target) for _ in range(AT_ONCE)]
    before = await asyncio.to_thread(rested, target)
    streams = list(warm)
    while len(streams) < STREAMS + AT_ONCE:
        streams += await asyncio.gather(*(begun(target) for _ in range(AT_ONCE)))
    during = await asyncio.to_thread(rested, target)
    for _, writer in streams:
        writer.transport.abort()
    return before, during


def held(total: int) -> Held:
    with served() as target:
        before, during = asyncio.run(opened(target))
    with served() as target:
        idle = rested(target)
        sent(target, total)
        after = rested(target)
        sent(target, total // 2)
        return Held(idle, after, rested(target), (during - before) / STREAMS * 1000)


def memory(total: int) -> Section:
    seconds, found = ready_seconds(), held(total)
    parts = (*PARTS, LEAVING)
    shares = ", ".join(f"{part.share:.0%} {part.name}" for part in parts)
    clients = sum(part.connections for part in parts)
    how = paragraph(HOW.format(total=total, shares=shares, clients=clients))
    rows = [
        (f"ready after its start, median of {STARTS}", f"{figure(seconds)} s"),
        ("resident, idle", f"{found.idle:.0f} MB"),
        (f"resident after {total:,} requests", f"{found.after:.0f} MB"),
        (f"resident after another {total // 2:,}", f"{found.later:.0f} MB"),
        (f"each of {STREAMS:,} idle streams", f"{found.stream_kb:.0f} kB"),
    ]
    goals = (
        at_most("ready after its start", seconds, 0.6, "{:.2f} s"),
        at_most("resident, idle", found.idle, 65, "{:.0f} MB"),
        at_most(f"resident after {total:,} requests", found.after, 110, "{:.0f} MB"),
        at_most("each idle stream", found.stream_kb, 32, "{:.0f} kB"),
        at_most("more memory for the last 50 % of requests", found.later - found.after, FLAT_MB, "{:.1f} MB"),
    )
    return Section("Start and memory", f"{how}\n\n{table(['', ''], rows)}", goals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    args = parser.parse_args()
    aside()
    print(memory(args.requests))


if __name__ == "__main__":
    main()
