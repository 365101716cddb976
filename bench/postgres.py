"""What PostgreSQL costs, and what several processes bring: `scripts/bench --postgres`.

    python -m bench.postgres [--seconds 4]

One connection: the latency, with the round trip and the flush of the database measured in the same minute. Then one
process on a core of its own, and two and four processes, all on the same limits. Last the ledger without HTTP.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.postgres_ledger import CLIENTS, measure
from bench.postgres_servers import Machine, Run, call, machine, median, pin, serving
from bench.processes import LOAD_CORE, SERVER_CORE, aside
from bench.tables import Goal, Section, at_least, at_most, figure, goals, paragraph, table
from bench.targets import Target, config, new_key, proxy
from codellama_proxy.store.postgres.scope_rows import SQL
from codellama_proxy.store.postgres.session import connect
from tests.support.postgres_store import address_of

TITLE = "PostgreSQL and several processes"
BOTH = f"{SERVER_CORE},{LOAD_CORE}"
CONNECTIONS = 64
WORKERS = (1, 2, 4)
ROUNDS = 3
PROBES = 300
MAX_ADDED_MS = 1.0
"""More than two round trips and a flush."""
MIN_SPEEDUP = 1.6
MAX_CPU_US = 150.0
HOW = """\
Measured on {date} with PostgreSQL {version} on the same machine, whose socket is a file: round trips are short. The
cache is off, everything else is on, and all requests count in the same scopes. Plain answers; the upstream answers at
once. Each figure is the median of {rounds} turns of {seconds:g} s."""
ALONE = """\
The database is asked between the turns, from the core of the servers: a round trip takes {trip:.2f} ms, and a flush of
its disk {flush:.2f} ms. An admission takes two trips and a flush before anything is sent to the upstream. The database,
the upstream and the load share the other core."""
TOGETHER = """\
{connections} connections. A single process has a core to itself; the database, the upstream and the load share the
other. Several processes share both cores with these, which take {others:.0f} µs of each request."""
COMPUTED = """\
By the CPU of these tables, with every core used to the full: one process serves {one:.0f} requests/s, two processes
{two:.0f} on two cores with everything else ({two_of_one:.2f} times as many), and {four:.0f} on four cores
({four_of_one:.2f} times)."""
LEDGER = """\
The ledger without HTTP: {clients} clients a process, each of which admits and settles one request after another."""


class Costs(NamedTuple):
    """Of the database itself, in milliseconds."""

    trip: float
    flush: float


# --- one connection ------------------------------------------------------------------------------------------------


def p50_ms(do: Callable[[], object], count: int) -> float:
    took = []
    for _ in range(count):
        start = time.perf_counter()
        do()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3


def costs(url: str) -> Costs:
    """As a server has them: the database runs on another core."""
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        with closing(connect(address_of(url))) as db:
            trip = p50_ms(lambda: db.native("select 1"), PROBES)
            flush = p50_ms(lambda: db.native(SQL["flush"]), PROBES // 3)
    finally:
        aside()
    return Costs(trip, max(flush - trip, 0.0))


def alone(on: Machine, targets: Mapping[str, Target], seconds: float) -> tuple[Mapping[str, Run], Costs]:
    """Medians of turns, and of the database's own costs between them."""
    runs: dict[str, list[Run]] = {name: [] for name in targets}
    asked = []
    for _ in range(ROUNDS):
        asked.append(costs(on.postgres.address()))
        for name, target in targets.items():
            runs[name].append(call(on, target, 1, seconds, LOAD_CORE))
    asked.append(costs(on.postgres.address()))
    medians = (statistics.median(values) for values in zip(*asked, strict=True))
    return {name: median(several) for name, several in runs.items()}, Costs(*medians)


def latency(runs: Mapping[str, Run]) -> str:
    direct = runs["direct"]
    rows = [
        (
            name,
            figure(run.p50_ms),
            figure(run.p99_ms),
            figure(run.p50_ms - direct.p50_ms) if run is not direct else "",
        )
        for name, run in runs.items()
    ]
    return table(["", "p50 ms", "p99 ms", "added p50 ms"], rows)


# --- several processes ---------------------------------------------------------------------------------------------


def together(on: Machine, folder: Path, key: str, seconds: float) -> Mapping[int, Run]:
    """Medians by the number of processes; the servers take turns, one at a time."""
    runs: dict[int, list[Run]] = {workers: [] for workers in WORKERS}
    for turn in range(ROUNDS):
        for workers in WORKERS:
            cores, core = (SERVER_CORE, LOAD_CORE) if workers == 1 else (BOTH, BOTH)
            with serving(on, folder / f"{workers}-{turn}", key, workers, cores) as target:
                pin(on, core)
                call(on, target, CONNECTIONS, 0.5, core)
                runs[workers].append(call(on, target, CONNECTIONS, seconds, core))
    return {workers: median(several) for workers, several in runs.items()}


def throughput(runs: Mapping[int, Run]) -> str:
    rows = []
    for workers, run in runs.items():
        cpu = [f"{value:.0f}" for value in (run.workers, run.database, run.upstream + run.load)]
        of_one = f"{run.per_second / runs[1].per_second:.2f}"
        rows.append(
            (f"{workers}", figure(run.per_second), of_one, figure(run.p50_ms), figure(run.p99_ms), *cpu)
        )
    header = [
        "processes",
        "requests/s",
        "of one",
        "p50 ms",
        "p99 ms",
        "CPU µs/request",
        "PostgreSQL",
        "upstream, load",
    ]
    return table(header, rows)


def computed(one: Run, two: Run) -> dict[str, float]:
    """Requests per second if every core were used to the full, by the CPU for a request."""
    whole = two.workers + two.database + two.upstream + two.load
    alone = 1e6 / one.workers
    on_two, on_four = 2e6 / whole, min(2e6 / two.workers, 4e6 / whole)
    return {
        "one": alone,
        "two": on_two,
        "four": on_four,
        "two_of_one": on_two / alone,
        "four_of_one": on_four / alone,
    }


# --- the section ---------------------------------------------------------------------------------------------------


def ledger(on: Machine, seconds: float) -> tuple[str, float]:
    """A table, and the CPU of one process for an admission and a settlement, in µs."""
    rows, cpu = [], 0.0
    for workers in WORKERS:
        found = measure(on.postgres.address(), workers, seconds, CLIENTS)
        p50, p99 = (1e3 * statistics.quantiles(found.latencies, n=100)[at] for at in (49, 98))
        used = found.cpu / found.requests * 1e6
        cpu = cpu or used
        rows.append((f"{workers}", figure(found.requests / seconds), figure(p50), figure(p99), f"{used:.0f}"))
    return table(["processes", "requests/s", "p50 ms", "p99 ms", "CPU µs/request"], rows), cpu


class Found(NamedTuple):
    """What was measured."""

    version: str
    """Of PostgreSQL."""
    single: Mapping[str, Run]
    """At one connection, by target."""
    asked: Costs
    several: Mapping[int, Run]
    """By the number of processes."""
    ledger: str
    ledger_cpu: float


def measured(seconds: float) -> Found:
    with machine() as on, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        url = on.postgres.address()
        key = new_key(folder, url)
        (folder / "file").mkdir()
        with (
            proxy(folder / "file", config(on.upstream), "SQLite") as file,
            serving(on, folder / "alone", key, 1, SERVER_CORE) as server,
        ):
            pin(on, LOAD_CORE)
            single, asked = alone(on, {"direct": on.upstream, "SQLite": file, "PostgreSQL": server}, seconds)
        several = together(on, folder, key, seconds)
        pin(on, BOTH)
        table_of_ledger, cpu = ledger(on, seconds)
        with closing(connect(address_of(url))) as db:
            (version,) = db.native("show server_version").fetchone()
    return Found(version.split()[0], single, asked, several, table_of_ledger, cpu)


def postgres(seconds: float) -> Section:
    """Takes about 25 turns of `seconds` and two minutes."""
    found = measured(seconds)
    one, two = found.several[1], found.several[2]
    numbers = computed(one, two)
    how = HOW.format(date=datetime.now(UTC).date(), version=found.version, rounds=ROUNDS, seconds=seconds)
    others = two.database + two.upstream + two.load
    text = [
        paragraph(how),
        "### One connection, on a file and on PostgreSQL",
        paragraph(ALONE.format(trip=found.asked.trip, flush=found.asked.flush)),
        latency(found.single),
        "### Several processes on the same limits",
        paragraph(TOGETHER.format(connections=CONNECTIONS, others=others)),
        throughput(found.several),
        paragraph(COMPUTED.format(**numbers)),
        "### Admission and settlement alone",
        paragraph(LEDGER.format(clients=CLIENTS)),
        found.ledger,
    ]
    return Section(TITLE, "\n\n".join(text), goals_of(found, numbers["four_of_one"]))


def goals_of(found: Found, four_of_one: float) -> tuple[Goal, ...]:
    asked, single, several = found.asked, found.single, found.several
    return (
        at_most(
            "added at one connection on PostgreSQL, p50, of two trips, a flush and 1 ms",
            single["PostgreSQL"].p50_ms - single["direct"].p50_ms,
            2 * asked.trip + asked.flush + MAX_ADDED_MS,
            "{:.2f} ms",
        ),
        at_least(
            "two processes on two cores with everything else, of one that has a core",
            several[2].per_second / several[1].per_second,
            MIN_SPEEDUP,
            "{:.2f}",
        ),
        at_least("the same by CPU, on four cores", four_of_one, MIN_SPEEDUP, "{:.2f}"),
        at_most(
            "CPU of an admission and a settlement on PostgreSQL", found.ledger_cpu, MAX_CPU_US, "{:.0f} µs"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    aside()
    section = postgres(parser.parse_args().seconds)
    print(section)
    print(goals([section]))


if __name__ == "__main__":
    main()
