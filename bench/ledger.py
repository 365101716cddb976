"""What admission and settlement cost: CPU time of a request, by concurrency and by how much is recorded already.

    python bench/ledger.py [ROWS]

Each request is checked in three scopes (global: parallel and budget, project: rates and budget, key: requests a
minute). The time is everything the process does for it: the event loop's side, the writer's thread, the commit.
The time of a bare `select 1` is told beside it, for machines differ.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from itertools import count
from pathlib import Path

from codellama_proxy.core.snapshot import Limits, Price
from codellama_proxy.core.types import Attempt, Key, Usage
from codellama_proxy.limits.admission import AdmissionRequest, Settlement, attempts_json
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

ROUNDS, REQUESTS = 5, 4000
PLENTY = 10**15
PRICE = Price(200_000_000, 600_000_000)
KEY = Key("key_000000000001", "web")
SCOPES = (
    ScopeLimits("global:", Limits(max_parallel_requests=200, max_budget=PLENTY, budget_duration="month")),
    ScopeLimits(
        "project:web",
        Limits(rpm_limit=10**9, tpm_limit=10**9, max_budget=PLENTY, budget_duration="month"),
    ),
    ScopeLimits("key:key_000000000001", Limits(rpm_limit=10**9)),
)
ATTEMPTS = attempts_json([Attempt("codellama#1", None, 12.3).to_json()])
USAGE = Usage(100, 50)
numbers = count()

FILL = """
with recursive n (i) as (select 1 union all select i + 1 from n where i < :rows)
insert into requests (request_id, created_at, project, key_id, user, endpoint, model_requested, model, deployment,
    upstream_model, stream, status, http_status, attempts, prompt_tokens, completion_tokens, cached_tokens,
    cost_nanos, saved_nanos, basis, cache, total_ms, config, hold_nanos, estimate_tokens)
select 'old_' || hex(randomblob(12)), :now - :rows + i,
    iif(i % 50, 'project-' || (i % 50), :project), iif(i % 1000, 'key_' || (i % 1000), :key_id),
    'user-' || (i % 5000), '/chat/completions', 'codellama', 'codellama', 'codellama#1', 'CodeLlama-34b', 0,
    'ok', 200, '[]', 100, 50, 0, 50000, 0, 'exact', 'miss', 12.3, '0123456789ab', 0, 100
from n
"""


def main(arguments: list[str]) -> None:
    rows = int(arguments[0]) if arguments else 1_000_000
    print(f"SQLite {sqlite3.sqlite_version}, bare select: {bare_select():.1f} µs")
    print(
        f"{'rows':>9}  {'concurrent':>10}  {'CPU µs/request':>14}  {'wall µs/request':>15}  requests/commit"
    )
    for already in (0, rows):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "proxy.db"
            prepare(path)
            fill(path, already, "web", KEY.key_id)
            for concurrent in (1, 8, 32, 128):
                cpu, wall, batch = asyncio.run(measured(path, concurrent))
                print(f"{already:>9}  {concurrent:>10}  {cpu:>14.1f}  {wall:>15.1f}  {batch:>15.1f}")


def bare_select() -> float:
    with closing(sqlite3.connect(":memory:")) as db:
        best = min(timed_select(db) for _ in range(20))
    return best * 1e6


def timed_select(db: sqlite3.Connection) -> float:
    before = time.perf_counter()
    for _ in range(1000):
        db.execute("select 1").fetchall()
    return (time.perf_counter() - before) / 1000


def fill(path: Path, rows: int, project: str, key_id: str) -> None:
    """So many settled requests, a 50th of them of this project, a 1000th with this key."""
    if rows:
        given = {"rows": rows, "now": time.time(), "project": project, "key_id": key_id}
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(FILL, given)


async def measured(path: Path, concurrent: int) -> tuple[float, float, float]:
    """The best of some rounds: what disturbs a measurement only ever adds to it."""
    writer, reader = Writer(path), Reader(path)
    ledger = Ledger(writer, reader)
    writer.start()
    try:
        await ledger.open()
        return min([await one_round(ledger, writer, concurrent) for _ in range(ROUNDS)])
    finally:
        await ledger.close()
        await asyncio.to_thread(writer.close)


async def one_round(ledger: Ledger, writer: Writer, concurrent: int) -> tuple[float, float, float]:
    left = iter(range(REQUESTS))
    commits, cpu, wall = writer.commits, time.process_time(), time.perf_counter()
    await asyncio.gather(*(client(ledger, left) for _ in range(concurrent)))
    await writer.barrier()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / REQUESTS * 1e6, wall / REQUESTS * 1e6, REQUESTS / (writer.commits - commits)


async def client(ledger: Ledger, left: object) -> None:
    for _ in left:  # type: ignore[attr-defined]  # every client takes from the same ones
        request_id = f"req_{next(numbers):024x}"
        await ledger.admit(ask(request_id))
        await asyncio.sleep(0)  # the answer of an upstream
        ledger.settle(end(request_id))


def ask(request_id: str) -> AdmissionRequest:
    return AdmissionRequest(
        request_id,
        time.time(),
        "web",
        KEY,
        None,
        "/chat/completions",
        "codellama",
        False,
        "0123456789ab",
        SCOPES,
        100,
        400,
        None,
        4096,
        1,
        (PRICE, PRICE),
    )


def end(request_id: str) -> Settlement:
    return Settlement(
        request_id,
        "ok",
        200,
        ATTEMPTS,
        "codellama",
        "codellama#1",
        "CodeLlama-34b-Instruct-hf",
        USAGE,
        "exact",
        50_000,
        0,
        "miss",
        12.3,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
