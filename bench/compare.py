"""Side by side: the proxy, a bare relay, and whoever else was started, on the same work, in turns.

    python -m bench.compare [--rounds 5] [--seconds 2] [--peers]

Everything on: key, guardrail, limits in three scopes, ledger on disk, metrics, log line to a file. The server has
one core, the upstream and the load share the other. `direct` shows that those two are not what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.processes import LOAD_CORE, aside, cpu_seconds, python, resident_mb
from bench.tables import Goal, Section, at_least, at_most, figure, table
from bench.targets import Target, config, proxy, relay, upstream

Figures = Mapping[str, float]
Found = Mapping[str, Figures]

HOW = """\
Everything of the proxy is on, as it is without any setting: key, guardrail, limits in three scopes, ledger on disk,
metrics, a log line to a file, and the cache. `proxy` has another prompt in each request, so that the cache is asked,
misses and keeps the answer; `proxy, hits` has one prompt; `proxy, no cache` has the cache switched off. Each server
has one core to itself, the upstream and the load share the other; they take turns, and each figure is the median of
its turns. `direct` is the load against the upstream without a server: those two are not what limits the others.
`asgi relay` is the baseline: one coroutine over aiohttp and the same server, which relays and does nothing else;
`relay` is the same as a Starlette application. The machine is shared and noisy, so the ratios are what to read."""


@dataclass(frozen=True)
class Work:
    title: str
    connections: int
    stream: bool


PROXIES = (
    ("proxy", "{}", True),
    ("proxy, hits", "{}", False),
    ("proxy, no cache", "{enabled: false}", False),
)
PLAIN = Work("Plain answers, 32 connections", 32, False)
STREAMS = Work("Streams of 51 chunks, 32 connections", 32, True)
ALONE = Work("Plain answers, 1 connection", 1, False)
ALONE_STREAMS = Work("Streams of 51 chunks, 1 connection", 1, True)
WORKS = (PLAIN, STREAMS, ALONE, ALONE_STREAMS)


def call(target: Target, work: Work, seconds: float, *options: object) -> dict[str, float]:
    """One run of the load; adds the server's CPU time for a request, in microseconds."""
    given = ["--connections", work.connections, "--seconds", seconds, "--fields", target.fields]
    given += ["--key", target.key, *["--stream"] * work.stream, *["--unique"] * target.unique, *options]
    for name, value in target.headers.items():
        given += ["--header", f"{name}: {value}"]
    command = ["taskset", "-c", str(LOAD_CORE), *python("bench.load", target.url, *given)]
    before = cpu_seconds(target.pid) if target.pid else 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stderr.splitlines()[-1]}")
    result: dict[str, float] = json.loads(done.stdout)
    if target.pid:
        result["cpu_us"] = (cpu_seconds(target.pid) - before) / result["requests"] * 1e6
    return result


def in_turns(targets: Sequence[Target], work: Work, rounds: int, seconds: float) -> Found:
    """The median of every figure."""
    turns = {target.name: functools.partial(call, target, work, seconds) for target in targets}
    return {name: chosen(runs, statistics.median) for name, runs in interleaved(turns, rounds).items()}


def interleaved(turns: Mapping[str, Callable[[], Figures]], rounds: int) -> Mapping[str, Sequence[Figures]]:
    """Every run; all take turns, so that a noisy minute hits all of them."""
    seen: dict[str, list[Figures]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            seen[name].append(turn())
    return seen


def chosen(runs: Sequence[Figures], choose: Callable[[Iterable[float]], float]) -> Figures:
    """One value for each figure of several runs."""
    return {figure: choose([run[figure] for run in runs]) for figure in runs[0]}


def throughput(found: Found, baseline: str) -> str:
    """As a table: how many, and what each costs."""
    header = ["", "requests/s", f"of {baseline}", "p50 ms", "p99 ms", "server CPU µs/request"]
    rows = []
    for name, figures in found.items():
        share = figures["per_second"] / found[baseline]["per_second"]
        times = figure(figures["p50_ms"]), figure(figures["p99_ms"])
        cpu = f"{figures['cpu_us']:.0f}" if "cpu_us" in figures else ""
        rows.append((name, figure(figures["per_second"]), f"{share:.0%}", *times, cpu))
    return table(header, rows)


def latency(found: Found, baseline: str = "direct") -> str:
    """As a table: how long an answer takes, and how much of it is the server's."""
    header = ["", "p50 ms", "p99 ms", "added p50 ms", "added p99 ms", "requests/s"]
    rows = []
    for name, figures in found.items():
        times = figures["p50_ms"], figures["p99_ms"], *added(found, name, baseline)
        shown = [figure(value) for value in times]
        if name == baseline:
            shown[2:] = "", ""
        rows.append((name, *shown, figure(figures["per_second"])))
    return table(header, rows)


def added(found: Found, name: str, baseline: str = "direct") -> tuple[float, float]:
    """Milliseconds on top of the baseline's, at the median and at the 99th of a hundred."""
    p50, p99 = (found[name][one] - found[baseline][one] for one in ("p50_ms", "p99_ms"))
    return p50, p99


def sizes(targets: Sequence[Target]) -> str:
    """As a table: how soon each answered, and its memory then and now."""
    rows = [
        (one.name, figure(one.start_s), f"{one.idle_mb:.0f}", f"{resident_mb(one.pid):.0f}")
        for one in targets
        if one.pid
    ]
    return table(["", "first answer after s", "MB then", "MB after these runs"], rows)


def side_by_side(rounds: int, seconds: float, *, others: bool) -> Section:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = stack.enter_context(upstream())
        targets = [direct, stack.enter_context(relay(direct, "asgi relay", "--asgi"))]
        targets.append(stack.enter_context(relay(direct)))
        for name, cache, unique in PROXIES:
            place = directory / name
            place.mkdir()
            targets.append(
                stack.enter_context(proxy(place, config(direct, cache=cache), name, unique=unique))
            )
        notes = ""
        if others:
            beside, notes = peers.started(stack, direct, directory)
            targets += beside
        for target in targets:
            warmed(target)
        found = {work: in_turns(targets, work, rounds, seconds) for work in WORKS}
        parts = [HOW, notes] if notes else [HOW]
        for work in WORKS:
            shown = throughput(found[work], "asgi relay") if work.connections > 1 else latency(found[work])
            parts.append(f"### {work.title}\n\n{shown}")
        parts.append(f"### Start and resident memory\n\n{sizes(targets)}")
        return Section("Side by side", "\n\n".join(parts), tuple(goals_of(found)))


def warmed(target: Target) -> None:
    """First calls load what is loaded late; nobody is measured by them."""
    for work in (PLAIN, STREAMS):
        call(target, work, 0.5)


def goals_of(found: Mapping[Work, Found]) -> list[Goal]:
    plain, streams = (
        found[work]["proxy"]["per_second"] / found[work]["asgi relay"]["per_second"]
        for work in (PLAIN, STREAMS)
    )
    hits = found[PLAIN]["proxy, hits"]["per_second"] / found[PLAIN]["proxy"]["per_second"]
    p50, p99 = added(found[ALONE], "proxy")
    return [
        at_least("requests/s at 32 connections, cache on, of the ASGI relay's", plain, 0.85, "{:.0%}"),
        at_least("streams/s at 32 connections, cache on, of the ASGI relay's", streams, 0.80, "{:.0%}"),
        at_least("requests/s from the cache, of those that miss it", hits, 2.0, "{:.1f}"),
        at_most("added at one connection, cache on, p50", p50, 0.8, "{:.2f} ms"),
        at_most("added at one connection, cache on, p99", p99, 3.0, "{:.2f} ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    aside()
    print(side_by_side(args.rounds, args.seconds, others=args.peers))


if __name__ == "__main__":
    main()
