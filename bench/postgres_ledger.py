"""Measures the ledger on PostgreSQL: `python -m bench.postgres_ledger [SECONDS] [WORKERS ...]`, on a server of its own.

A request is an admission and a settlement in three scopes that all workers share: the global and the project's budget,
rates and parallel requests, and a key's rate. Closed loop with 32 clients a worker, then one client alone.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from bench.processes import NotUp
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.housekeeping import make_partitions
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.write_queue import WriteQueue
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import PostgresServer, programs
from tests.support.postgres_store import address_of

SCOPES = (
    of_global(max_parallel_requests=10**6, max_budget=10**15, budget_duration="month"),
    of_project(rpm_limit=10**9, tpm_limit=10**12, max_budget=10**15, budget_duration="month"),
    of_key(rpm_limit=10**9),
)
CLIENTS = 32


class Measured(NamedTuple):
    """Of one worker, or of all together. Latencies of admissions in seconds."""

    requests: int
    latencies: list[float]
    cpu: float
    """Processor seconds."""


def worker(url: str, seconds: float, clients: int, results: Connection) -> None:
    import uvloop  # noqa: PLC0415 - in the worker only

    sys.setswitchinterval(0.0005)
    results.send(uvloop.run(_load(url, seconds, clients)))


async def _load(url: str, seconds: float, clients: int) -> Measured:
    address = address_of(url)
    queue: WriteQueue[PostgresSession] = WriteQueue(PostgresEngine(address, Identity()), "bench")
    await asyncio.to_thread(queue.start)
    ledger = Ledger(queue, Connections(address))
    latencies: list[float] = []
    stop_at = 0.0

    async def client() -> None:
        while time.monotonic() < stop_at:
            request = ask(*SCOPES, request_id=new_request_id(time.time()))
            start = time.perf_counter()
            await ledger.admit(request)
            latencies.append(time.perf_counter() - start)
            ledger.settle(end(request, 3))

    for warming, duration in ((True, 0.5), (False, seconds)):
        latencies.clear()
        used = resource.getrusage(resource.RUSAGE_SELF)
        stop_at = time.monotonic() + duration
        await asyncio.gather(*(client() for _ in range(clients)))
        await queue.barrier()
        now = resource.getrusage(resource.RUSAGE_SELF)
        if not warming:
            cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    await asyncio.to_thread(queue.close)
    return Measured(len(latencies), latencies, cpu)


def measure(url: str, workers: int, seconds: float, clients: int) -> Measured:
    """Of all workers together."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [context.Process(target=worker, args=(url, seconds, clients, there)) for _, there in pipes]
    for process in processes:
        process.start()
    found: list[Measured] = [here.recv() for here, _ in pipes]
    for process in processes:
        process.join()
    latencies = sorted(latency for one in found for latency in one.latencies)
    return Measured(sum(one.requests for one in found), latencies, sum(one.cpu for one in found))


@contextmanager
def migrated_server() -> Iterator[PostgresServer]:
    """A server whose database has all tables, on this machine's disk."""
    folder = programs()
    if folder is None:
        raise NotUp("there is no PostgreSQL")
    server = PostgresServer(folder, "shared_buffers=256MB")
    try:
        address = address_of(server.address())
        with closing(connect(address)) as db:
            migrate(db, address)
            make_partitions(db, time.time())
        yield server
    finally:
        server.remove()


def main(arguments: list[str]) -> None:
    seconds, *counts = [float(one) for one in arguments] or (3.0, 1.0, 2.0, 4.0)
    with migrated_server() as server:
        print("workers clients requests/s   p50 ms   p99 ms CPU µs/request")
        for count, clients in ((1, 1), *((int(count), CLIENTS) for count in counts or (1.0, 2.0, 4.0))):
            found = measure(server.address(), count, seconds, clients)
            p50, p99 = (1e3 * statistics.quantiles(found.latencies, n=100)[at] for at in (49, 98))
            cpu = found.cpu / found.requests * 1e6
            rate = found.requests / seconds
            print(f"{count:>7} {clients:>7} {rate:>10.0f} {p50:>8.1f} {p99:>8.1f} {cpu:>12.0f}")


if __name__ == "__main__":
    main(sys.argv[1:])
