"""How long reports take over a month of requests: the dashboard's pages, `/spend` and `/spend/logs`.

    python -m bench.postgres_reports [--rows 1000000] [--rounds 7] [--database postgresql://…, which is filled already]
    python -m bench.postgres_reports --sqlite [--database a file, which is filled already]

One server, asked for one page after another by the operator. `CPU` is the time of the server's and the database's
processes for one answer, in milliseconds; it depends less on what else the machine does than the time of the whole HTTP
request. The first answer of each page is without anything kept in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2

from bench import dashboard, dashboard_rows, postgres_rows
from bench.dashboard import FORM, MASTER_KEY
from bench.dashboard_rows import ROWS
from bench.processes import family
from bench.report_paths import KINDS, Known, known
from bench.tables import Section, at_least, figure, paragraph, table
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.sqlite.connection import connect as connect_file
from codellama_proxy.store.sqlite.migrations import prepare
from tests.support.postgres import PostgresServer, programs
from tests.support.postgres_store import address_of

MAX_MS = 300.0
PAUSE_SECONDS = 0.05
"""Between requests, below the limit of pages a second."""
TITLE, FILE_TITLE = "Reports on PostgreSQL", "Reports on SQLite"
SUMMARY = ("CPU ms", "different", "median", "p95", "most", f"above {MAX_MS:.0f} ms")
ALL = "all"
SHOWN = 12
TEXT = """\
Measured on {date}. A month of {rows:,} requests of 240 keys in 12 projects, 720 users and {sessions:,} sessions, each
with an agent. Whole HTTP requests to one server, asked one after another: processor time of the server and the database
in milliseconds, of the first one of each, which has nothing in memory, and the median of {rounds} more. Of {count}
different ones {late} take more than {most:.0f} ms; {refused} are refused, as they have too many groups. Load of the
machine at the end: {load:.0f}."""

EARLIER = ' Rows with "before" are an earlier version\'s, over the same requests.'


class Took(NamedTuple):
    """Milliseconds."""

    path: str
    first: float
    """Of processor time, as `cpu`."""
    cpu: float
    """The median of the others."""
    wall: float
    """The median of all whole requests."""
    refused: bool

    @property
    def most(self) -> float:
        return max(self.first, self.cpu)


def known_of(database: str) -> Known:
    """`database`: an address, or the path of a file."""
    if "://" in database:
        with closing(connect(address_of(database))) as db:
            return known(lambda sql, values=(): db.execute(sql, values).fetchone(), "settled")
    with closing(connect_file(Path(database))) as file:
        return known(lambda sql, values=(): file.execute(sql, values).fetchone(), "requests")


def cpu_ms(pids: Sequence[int]) -> float:
    """Processor time of processes, with their threads and children, also of children that ended."""
    nanos, ticks = 0, 0
    for first in pids:
        for pid in family(first):
            with contextlib.suppress(OSError):
                threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
                nanos += sum(int(one.read_text().split()[0]) for one in threads)
        ended = Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[13:15]
        ticks += sum(map(int, ended))
    return nanos / 1e6 + ticks * 1000 / os.sysconf("SC_CLK_TCK")


def timed(client: httpx2.Client, path: str, rounds: int, pids: Sequence[int]) -> Took:
    cpu, wall, refused = [], [], 0
    for _ in range(rounds + 1):
        before, start = cpu_ms(pids), time.perf_counter()
        answer = client.get(path)
        wall.append((time.perf_counter() - start) * 1000)
        cpu.append(cpu_ms(pids) - before)
        assert answer.status_code in (200, 400, 503), (path, answer.status_code, answer.text[:300])
        refused += answer.status_code != 200
        time.sleep(PAUSE_SECONDS)
    first, *others = cpu
    return Took(path, first, statistics.median(others), statistics.median(wall), refused > 0)


def measure(database: str, rounds: int, only: str = "") -> dict[str, list[Took]]:
    """By kind of page. `database`: an address, or the path of a file."""
    at = known_of(database)
    with (
        tempfile.TemporaryDirectory() as temporary,
        dashboard.server(Path(temporary), database) as (address, pid),
    ):
        client = httpx2.Client(
            base_url=address, timeout=120, headers={"authorization": f"Bearer {MASTER_KEY}"}
        )
        client.post("/ui/sign-in", content=f"secret={MASTER_KEY}", headers=FORM)
        pids = [pid, *_server_of(database)]
        return {
            kind: [
                timed(client, quote(path, safe="/?&=,:-%"), rounds, pids) for path in make(at) if only in path
            ]
            for kind, make in KINDS.items()
        }


def _server_of(database: str) -> Iterator[int]:
    """The first process of a database server."""
    if "://" in database:
        with closing(connect(address_of(database))) as db:
            yield int(
                db.native("select split_part(pg_read_file('postmaster.pid'), chr(10), 1)").fetchone()[0]
            )


@contextlib.contextmanager
def filled(rows: int) -> Iterator[str]:
    """The address of a database with this number of requests, on a server of its own."""
    folder = programs()
    assert folder is not None, "there is no PostgreSQL"
    server = PostgresServer(folder, "shared_buffers=512MB", "max_wal_size=8GB")
    try:
        postgres_rows.fill(address_of(server.address()), rows)
        yield server.address()
    finally:
        server.remove()


@contextlib.contextmanager
def filled_file(rows: int) -> Iterator[str]:
    """The path of a database with this number of requests."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "proxy.db"
        dashboard_rows.fill(path, rows)
        yield str(path)


def reports(rows: int, rounds: int, database: str | None = None, earlier: Path | None = None) -> Section:
    """Over PostgreSQL, which is filled first unless it is given. `earlier`: what `main` printed for another version."""
    with contextlib.nullcontext(database) if database else filled(rows) as url:
        return section(TITLE, measure(url, rounds), rows, known_of(url).sessions, rounds, earlier)


def file_reports(rows: int, rounds: int, database: str | None = None, earlier: Path | None = None) -> Section:
    """The same over a file."""
    with contextlib.nullcontext(database) if database else filled_file(rows) as path:
        prepare(Path(path))
        return section(FILE_TITLE, measure(path, rounds), rows, known_of(path).sessions, rounds, earlier)


def section(
    title: str,
    found: Mapping[str, Sequence[Took]],
    rows: int,
    sessions: int,
    rounds: int,
    earlier: Path | None = None,
) -> Section:
    """A summary of each kind, and the slowest of all."""
    every = [one for several in found.values() for one in several]
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        rows=rows,
        sessions=sessions,
        rounds=rounds,
        count=len(every),
        late=sum(one.most > MAX_MS for one in every),
        most=MAX_MS,
        refused=sum(one.refused for one in every),
        load=os.getloadavg()[0],
    )
    text += EARLIER if earlier is not None else ""
    kinds = table(
        SUMMARY,
        [
            *(summary(kind, several) for kind, several in (*found.items(), (ALL, every))),
            *(() if earlier is None else summaries(earlier.read_text())),
        ],
    )
    slowest = table(
        ["slowest", "first", "median", "whole request"],
        [
            (f"`{one.path}`", figure(one.first), figure(one.cpu), figure(one.wall))
            for one in sorted(every, key=lambda one: -one.most)[:SHOWN]
        ],
    )
    reached = [
        at_least(
            f"{title}: {kind}, within {MAX_MS:.0f} ms over {rows:,} requests",
            sum(one.most <= MAX_MS for one in several) / len(several),
            1.0,
            "{:.0%}",
        )
        for kind, several in found.items()
    ]
    return Section(title, "\n\n".join((paragraph(text), kinds, slowest)), reached)


def summary(kind: str, several: Sequence[Took]) -> tuple[Any, ...]:
    """A row: of the slower of first and later answers."""
    most = sorted(one.most for one in several)
    p95 = most[min(round(len(most) * 0.95), len(most) - 1)]
    late = sum(one > MAX_MS for one in most)
    return kind, len(most), figure(statistics.median(most)), figure(p95), figure(most[-1]), late


def summaries(printed: str) -> Iterator[Sequence[str]]:
    """The summaries of kinds in what `main` printed."""
    for line in printed.splitlines():
        name, *cells = line.split()
        if name in (*KINDS, ALL) and len(cells) == len(SUMMARY) - 1:
            yield f"{name} before", *cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--database")
    parser.add_argument("--sqlite", action="store_true", help="over a file")
    parser.add_argument("--section", action="store_true", help="print the section for RESULTS.md")
    parser.add_argument(
        "--earlier", type=Path, help="what this printed for an earlier version, for the section"
    )
    parser.add_argument("--only", default="", help="paths that contain this")
    given = parser.parse_args()
    if given.section:
        print(
            (file_reports if given.sqlite else reports)(
                given.rows, given.rounds, given.database, given.earlier
            )
        )
        return
    fill = filled_file if given.sqlite else filled
    with contextlib.nullcontext(given.database) if given.database else fill(given.rows) as database:
        every = []
        for kind, found in measure(database, given.rounds, given.only).items():
            print(f"{kind:90} {'CPU, first':>10} {'median':>8} {'whole':>8}")
            for one in found:
                late = ("  over the goal" if one.most > MAX_MS else "") + "  refused" * one.refused
                print(f"  {one.path[:88]:88} {one.first:10.1f} {one.cpu:8.1f} {one.wall:8.1f}{late}")
            every += found
            if found:
                print(*summary(kind, found))
        print(*summary(ALL, every))


if __name__ == "__main__":
    main()
