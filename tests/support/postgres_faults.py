"""Several worker processes on one database while connections are cut, processes killed and the server crashes.

At the end the books have to be exact: no budget was exceeded at any commit (a constraint of the table), every request
that was admitted has one row, every settlement is booked at its cost, and balances equal the sums of their rows.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.core.types import Key
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.postgres.standings import reconcile
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.write_queue import WriteQueue
from tests.support.forked import ForkedProcess
from tests.support.ledger_fixtures import ask, of_global, of_key, of_project
from tests.support.ledger_fixtures import end as settlement
from tests.support.phase_relay import PHASES, PhaseRelay
from tests.support.postgres import QUICK, PostgresServer, own_programs, programs
from tests.support.postgres_store import address_of
from tests.support.processes import ROOT, end, environment, free_port, until

FASTER = 2.5
"""How much faster the clock of the engines runs: a dead worker is found after 4 s."""
PARALLEL = 60
COSTS = (0, 100, 1000)
HOLD = 1000
ENOUGH_REQUESTS = 200
"""A run lasts until so many are admitted, also on a loaded machine."""
ENOUGH_BEFORE_A_KILL = 20
PATIENCE_SECONDS = 120.0


@dataclass
class Faults:
    """Mean seconds between faults of each kind; `None`: never."""

    kill: float | None = None
    crash: float | None = None
    pause: float | None = None
    cut: float = 0.0
    """Share of commits around which the connection is cut."""


@dataclass
class Report:
    """What happened, and what is wrong with the books."""

    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        happened = ", ".join(f"{count} {name}" for name, count in sorted(self.events.items()))
        return f"{happened}: {'; '.join(self.wrong) if self.wrong else 'books exact'}"


def scopes(number: int, budget: int) -> tuple[Any, ...]:
    return (
        of_global(max_parallel_requests=PARALLEL, max_budget=10**15, budget_duration="month"),
        of_project(max_budget=budget, budget_duration="month", rpm_limit=10**9),
        of_key(f"key_{number % 3}", rpm_limit=10**9),
    )


def run(seconds: float, workers: int, faults: Faults, *, budget: int = 10**9, clients: int = 12) -> Report:
    """Load a database for some seconds; returns what happened. The database server is a new one."""
    folder = programs()
    assert folder is not None
    settings = ("fsync=on",) if faults.crash else QUICK
    server = PostgresServer(folder, *settings, "deadlock_timeout=100ms")
    report = Report()
    try:
        address = address_of(server.address())
        _prepare(address, budget)
        with _relay(server, faults.cut) as reached:
            logs = _load(reached, server, seconds, workers, faults, budget, clients, report)
        if server.stopped:
            server.start()
        _check(address, server, logs, report)
    finally:
        server.remove()
    return report


def _prepare(address: ServerAddress, budget: int) -> None:
    with closing(connect(address)) as db:
        migrate(db, address)
        db.script(
            "alter table scopes add constraint never_over "
            f"check (scope <> 'project:web' or spent_nanos + held_nanos <= {budget});"
            f"alter table scopes add constraint never_more check (scope <> 'global:' or running <= {PARALLEL});"
        )


def _load(
    reached: str,
    server: PostgresServer,
    seconds: float,
    workers: int,
    faults: Faults,
    budget: int,
    clients: int,
    report: Report,
) -> list[Path]:
    logs: list[Path] = []

    def started(number: int) -> tuple[ForkedProcess, Path]:
        log = server.folder.with_name(f"{server.folder.name}-{len(logs)}.log")
        logs.append(log)
        return _started_worker(number, reached, log, budget, clients), log

    running = [started(0)]
    until(lambda: _size(logs[0]), "the first request", within=60)
    running += [started(number) for number in range(1, workers)]
    end_at = time.monotonic() + seconds
    due = {
        kind: time.monotonic() + every
        for kind, every in (("kill", faults.kill), ("crash", faults.crash), ("pause", faults.pause))
        if every is not None
    }
    paused: list[tuple[float, ForkedProcess]] = []

    def enough() -> bool:
        happened = all(report.events[kind] for kind in due)
        return (
            happened
            and sum(map(_admitted, logs)) >= ENOUGH_REQUESTS
            and all(_size(log) for _, log in running)
        )

    give_up_at = end_at + PATIENCE_SECONDS
    while time.monotonic() < end_at or not enough():
        assert time.monotonic() < give_up_at, f"too few requests: {report}"
        time.sleep(0.05)
        now = time.monotonic()
        for kind in [kind for kind, at in due.items() if now >= at]:
            number = random.randrange(workers)
            process, log = running[number]
            if not _size(log):
                continue  # a fault before the first request tests nothing
            report.events[kind] += 1
            if kind == "kill":
                process.kill()
                process.wait()
                running[number] = started(number)
            elif kind == "crash":
                server.stop(signal.SIGQUIT)
                time.sleep(0.3)
                server.start()
            else:
                process.send_signal(signal.SIGSTOP)
                paused.append((now + random.uniform(0.5, 4.0), process))
            due[kind] = time.monotonic() + getattr(faults, kind) * random.uniform(0.7, 1.3)
        for at, process in [one for one in paused if now >= one[0]]:
            paused.remove((at, process))
            process.send_signal(signal.SIGCONT)
    for _, process in paused:
        process.send_signal(signal.SIGCONT)
    for process, _ in running:
        process.terminate()
    for process, _ in running:
        if code := end(process, within=60):
            report.wrong.append(f"a worker ended with {code}")
    return logs


def _started_worker(number: int, reached: str, log: Path, budget: int, clients: int) -> ForkedProcess:
    arguments = (str(number), reached, str(log), str(budget), str(clients))
    command = [sys.executable, "-m", "tests.support.postgres_faults", *arguments]
    return ForkedProcess(command, cwd=ROOT, env=environment(), stdout=2, stderr=2)


def run_killed_in_phases() -> Report:
    """One process for each phase of a transaction, killed in it under load; returns what happened."""
    server = PostgresServer(own_programs(), *QUICK)
    report = Report()
    try:
        address = address_of(server.address())
        _prepare(address, 10**9)
        logs = [
            server.folder.with_name(f"{server.folder.name}-{number}.log") for number in range(len(PHASES))
        ]
        with ExitStack() as stack:
            for number, (phase, log) in enumerate(zip(PHASES, logs, strict=True)):
                relay, port = PhaseRelay(f"{server.folder}/.s.PGSQL.5432", phase), free_port()
                stack.enter_context(relay.listening(port))
                process = _started_worker(number, _through(port), log, 10**9, 6)
                stack.callback(process.wait, 30)
                stack.callback(process.kill)
                until(lambda log=log: _admitted(log) > ENOUGH_BEFORE_A_KILL, "requests", within=60)  # type: ignore[misc]
                relay.arm(process.kill)
                assert relay.killed.wait(30), phase
                report.events[f"killed {phase}"] += 1
        _check(address, server, logs, report)
    finally:
        server.remove()
    return report


def _through(port: int) -> str:
    """The address of a relay; statements are not prepared, so that it can see them."""
    return f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable&prepare=off"


def _admitted(log: Path) -> int:
    return log.read_bytes().count(b"admitted ") if log.exists() else 0


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def worker(number: int, reached: str, log: Path, budget: int, clients: int) -> None:
    """A process that admits and settles until SIGTERM; its log has a line for each answer."""
    asyncio.run(_work(number, reached, log, budget, clients))


async def _work(number: int, reached: str, log: Path, budget: int, clients: int) -> None:
    address = address_of(reached)
    engine = PostgresEngine(address, Identity(), clock=lambda: time.monotonic() * FASTER)
    queue: WriteQueue[PostgresSession] = WriteQueue(engine, "chaos")
    await asyncio.to_thread(_started, queue)
    ledger = Ledger(queue, Connections(address))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with log.open("a", buffering=1) as lines:

        async def client() -> None:
            while not stop.is_set():
                request = ask(
                    *scopes(number, budget),
                    request_id=new_request_id(time.time()),
                    key=Key(f"key_{number % 3}", "web"),
                    max_tokens=HOLD,
                )
                try:
                    admission = await ledger.admit(request)
                except ProxyError as error:
                    lines.write(f"refused {error.code}\n")
                    await asyncio.sleep(0.02)
                    continue
                lines.write(f"admitted {request.request_id} {admission.hold_nanos}\n")
                await asyncio.sleep(random.expovariate(1 / 0.03))
                cost = min(random.choice(COSTS), admission.hold_nanos)  # what was clamped costs less
                lines.write(f"settled {request.request_id} {cost}\n")
                ledger.settle(settlement(request, cost))

        await asyncio.gather(*(client() for _ in range(clients)))
        ledger.close()
        await asyncio.to_thread(queue.close, 30.0)
        lines.write(f"late {engine.late_settlements}\n")


def _started(queue: WriteQueue[PostgresSession]) -> None:
    from codellama_proxy.store.errors import StoreError  # noqa: PLC0415

    for _ in range(200):  # the server may be down just now
        try:
            queue.start()
        except StoreError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the database cannot be reached")


def _check(address: ServerAddress, server: PostgresServer, logs: list[Path], report: Report) -> None:
    _settle_what_is_left(address)
    admitted, settled, killed = set(), {}, set()
    for log in filter(Path.exists, logs):  # a process may be killed before it writes
        lines = log.read_text().splitlines()
        whole = bool(lines) and lines[-1].startswith("late")
        for line in lines:
            kind, *values = line.split()
            report.events[kind if kind != "refused" else f"refused ({values[0]})"] += (
                1 if kind != "late" else int(values[0])
            )
            if kind == "admitted" and len(values) == 2:
                admitted.add(values[0])
            elif kind == "settled" and len(values) == 2:
                settled[values[0]] = int(values[1])
                if not whole:
                    killed.add(values[0])
        log.unlink()
    with closing(connect(address)) as db:
        rows = {
            name: (cost, basis)
            for name, cost, basis in db.execute("select request_id, cost_nanos, basis from settled")
        }
        (held,) = db.execute("select count(*) from held").fetchone()
        differences = reconcile(db)
    report.events["rows"] = len(rows)
    report.events["crash estimates"] = sum(basis == "crash_estimate" for _, basis in rows.values())
    if held:
        report.wrong.append(f"{held} requests are still held")
    if differences:
        report.wrong.append(f"balances differ: {differences}")
    if missing := admitted - rows.keys():
        report.wrong.append(f"{len(missing)} admitted requests have no row")
    other = [
        name
        for name, cost in settled.items()
        if name not in killed
        and rows.get(name, (cost, ""))[1] != "crash_estimate"
        and rows.get(name, (None,))[0] != cost
    ]
    if other:
        report.wrong.append(f"{len(other)} settlements are booked at another cost")
    text = (server.folder / "log").read_text(errors="replace")
    report.events["deadlocks"] = len(re.findall("deadlock detected", text))
    if report.events["deadlocks"]:
        report.wrong.append("transactions waited for each other")
    for name in ("never_over", "never_more", "scopes_held_nanos_check", "scopes_running_check"):
        if name in text:
            report.wrong.append(f"a commit would have broken {name}")


def _settle_what_is_left(address: ServerAddress) -> None:
    """What a process that stays would do: settle what dead workers hold."""
    engine = PostgresEngine(address, Identity(), clock=lambda: time.monotonic() * FASTER)
    queue: WriteQueue[PostgresSession] = WriteQueue(engine, "referee")
    queue.start()

    try:
        with closing(connect(address)) as db:
            until(
                lambda: not db.execute("select count(*) from held").fetchone()[0],
                "dead workers' requests are settled",
                within=60,
            )
    finally:
        queue.close()


@contextmanager
def _relay(server: PostgresServer, share: float) -> Iterator[str]:
    """The address of a relay that cuts connections around commits."""
    if not share:
        yield server.address()
        return
    port = free_port()
    relay = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.cutting_relay",
            str(port),
            f"{server.folder}/.s.PGSQL.5432",
            str(share),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert relay.stdout is not None
        relay.stdout.readline()
        yield _through(port)
    finally:
        relay.kill()
        relay.wait()
        relay.stdout.close()


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
