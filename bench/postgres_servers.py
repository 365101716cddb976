"""Servers on PostgreSQL under load, and the CPU that each process takes for a request."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.postgres_ledger import migrated_server
from bench.processes import LOAD_CORE, cpu_seconds, family, free_port, listening, python, running
from bench.targets import Target, ask, at, config
from tests.support.postgres import PostgresServer


class Run(NamedTuple):
    """Of a load. CPU in µs for a request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    workers: float
    database: float
    upstream: float
    load: float


class Machine(NamedTuple):
    """What a server under test talks to."""

    postgres: PostgresServer
    upstream: Target
    upstream_pid: int


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    port = free_port()
    with (
        migrated_server() as postgres,
        running(python("bench.instant", port), LOAD_CORE, lambda: listening(port)) as instant,
    ):
        yield Machine(postgres, Target("direct", at(port)), instant.pid)


@contextlib.contextmanager
def serving(on: Machine, directory: Path, key: str, workers: int, cores: int | str) -> Iterator[Target]:
    """A number of processes on one port and the server's database."""
    directory.mkdir()
    path = directory / "proxy.yaml"
    path.write_text(config(on.upstream))
    port = free_port()
    command = python("codellama_proxy", "serve", "--config", path, "--port", port)
    if workers > 1:
        command += ["--workers", str(workers)]
    target = Target(f"{workers} on PostgreSQL", at(port), key)
    env = {"PROXY_DATABASE": on.postgres.address()}
    log = directory / "log"
    with running(command, cores, lambda: ask(target)[0] == 200, env, log) as process:
        try:
            yield replace(target, pid=process.pid)
        except SystemExit as error:
            problems = [line for line in log.read_text().splitlines() if '"level":"info"' not in line]
            raise SystemExit(" / ".join([str(error), *problems[:5]])) from None


def call(on: Machine, target: Target, connections: int, seconds: float, core: int | str) -> Run:
    """One load."""
    pids = [pid for pid in (target.pid, on.postgres.pid, on.upstream_pid) if pid is not None]
    command = python("bench.load", target.url, "--connections", connections, "--seconds", seconds)
    before = [cpu_seconds(pid) for pid in pids]
    done = subprocess.run(
        ["taskset", "-c", str(core), *command, "--key", target.key],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{target.name}: {done.stderr.splitlines()[-1]}")
    found = json.loads(done.stdout)
    used = [(cpu_seconds(pid) - was) / found["requests"] * 1e6 for pid, was in zip(pids, before, strict=True)]
    workers, database, upstream = used if target.pid is not None else (0.0, *used)
    return Run(
        found["per_second"], found["p50_ms"], found["p99_ms"], workers, database, upstream, found["load_us"]
    )


def median(runs: Sequence[Run]) -> Run:
    return Run(*(statistics.median(values) for values in zip(*runs, strict=True)))


def pin(on: Machine, cores: int | str) -> None:
    """The database and the upstream, with all their threads and processes."""
    for pid in (on.postgres.pid, on.upstream_pid):
        for one in family(pid):
            subprocess.run(["taskset", "-apc", str(cores), str(one)], capture_output=True, check=False)
