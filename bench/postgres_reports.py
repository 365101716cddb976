"""How long reports take over a month of requests on PostgreSQL: the dashboard's pages, `/spend` and `/spend/logs`.

    python -m bench.postgres_reports [--rows 1000000] [--rounds 7] [--database postgresql://…, which is filled already]

One server, asked for one page after another by the operator. Times are those of whole HTTP requests, in milliseconds;
the first one of each page is without anything kept in memory.
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
from typing import NamedTuple
from urllib.parse import quote

import httpx2

from bench import dashboard
from bench.dashboard import DAY, FORM, MASTER_KEY
from bench.dashboard_rows import ROWS
from bench.postgres_rows import fill
from bench.processes import cpu_seconds
from bench.tables import Section, at_least, figure, paragraph, table
from codellama_proxy.core.clock import iso
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.reports import GROUPS
from tests.support.postgres import PostgresServer, programs
from tests.support.postgres_store import address_of

MAX_MS = 300.0
PAUSE_SECONDS = 0.05
"""Between requests, below the limit of pages a second."""
TITLE = "Reports on PostgreSQL"
SHOWN = 6
TEXT = """\
Measured on {date}. A month of {rows:,} requests of 240 keys in 12 projects, 720 users and {sessions:,} sessions. Whole
HTTP requests to one server, asked one after another, in milliseconds. The first one of each has nothing in memory; the
median is of {rounds} more. Of {count} different ones {late} take more than {most:.0f} ms."""


class Known(NamedTuple):
    """Values from the requests of the database, to ask for."""

    now: float
    key_id: str
    session: str
    agent: str
    request_id: str
    older: str
    """The id of a request in the middle."""
    sessions: int


class Took(NamedTuple):
    """Milliseconds."""

    path: str
    first: float
    median: float
    worst: float
    cpu: float
    """Of the database, on average."""


def known(url: str) -> Known:
    """Reads what there is from the database."""
    with closing(connect(address_of(url))) as db:
        row = db.native(
            "select max(created_at), max(seq) from settled"  # at the end of the month
        ).fetchone()
        key_id, session, agent, request_id = db.native(
            "select key_id, session, agent, request_id from settled where seq between %s and %s and agent is not null "
            "order by seq limit 1",
            (row[1] // 3, row[1] // 3 + 100),
        ).fetchone()
        (older,) = db.native("select request_id from settled where seq = %s", (row[1] // 2,)).fetchone()
        (sessions,) = db.native("select count(distinct session) from usage_days").fetchone()
    return Known(row[0], key_id, session, agent, request_id, older, sessions)


def spend(at: Known) -> Iterator[str]:
    """What people and scripts ask `/spend` for: groups, and time ranges that do not begin at midnight."""
    week, days = f"start={iso(at.now - 7 * DAY - 1234)}", f"start={iso(at.now - 30 * DAY)[:10]}"
    hours = f"start={iso(at.now - 30 * 3600)}&end={iso(at.now - 2 * 3600)}"
    for group in ("", *GROUPS, "project,day", "key,day", "model,day", "user,day", "project,model,day,status"):
        yield f"/spend?group_by={group}"
    for group in ("", "project", "key", "model", "user", "day", "session", "key,model,day"):
        for given in (week, days, hours):
            yield f"/spend?group_by={group}&{given}"
    filters = ("project=project-3", f"key_id={at.key_id}", "user=user-3-0", "model=model-7", "status=error")
    for one in (*filters, f"agent={at.agent}", f"session={at.session}"):
        for group in ("", "day", "model", "user"):
            yield f"/spend?group_by={group}&{one}"
        yield f"/spend?{one}&{week}"
    yield "/spend?group_by=user&page=2&size=100"


def logs(at: Known) -> Iterator[str]:
    """Pages of `/spend/logs`: the newest and later ones, by each filter alone and by several."""
    old = f"start={iso(at.now - 22 * DAY)}&end={iso(at.now - 21 * DAY)}"
    filters = (
        *("", "project=project-3", f"key_id={at.key_id}", "user=user-3-0", "user=user-3-0&project=project-0"),
        *("model=model-7", "model=none", "status=ok", "status=error", "status=held", f"session={at.session}"),
        *(f"agent={at.agent}", "agent=none", old, f"project=project-3&{old}", f"key_id={at.key_id}&{old}"),
        *("model=model-7&status=error", "project=project-3&status=error", f"user=user-3-0&{old}"),
        *("project=project-3&model=model-7", f"start={iso(at.now - 3600)}", f"end={iso(at.now - 29 * DAY)}"),
    )
    for one in filters:
        yield f"/spend/logs?{one}"
        yield f"/spend/logs?{one}&page=20"
        yield f"/spend/logs?{one}&size=1000"
        yield f"/spend/logs?{one}&before={at.older}"
    yield f"/spend/logs?request_id={at.request_id}"
    yield f"/requests/{at.request_id}"


def pages(at: Known) -> Iterator[str]:
    """The dashboard's."""
    for page in dashboard.pages(at.now):
        if not page.startswith("requests/"):
            yield f"/ui/{page}"
    for by in ("project", "model", "key", "user"):
        for name in ("24h", "7d", "30d"):
            yield f"/ui/overview?by={by}&range={name}"
    yield f"/ui/requests/{at.request_id}"
    yield f"/ui/keys/{at.key_id}"


def database_cpu(pid: int) -> float:
    """Seconds of a server and its processes, those that ended included. `pid`: its first process."""
    children = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    return cpu_seconds(pid) + sum(map(int, children)) / os.sysconf("SC_CLK_TCK")


def timed(client: httpx2.Client, path: str, rounds: int, pid: int) -> Took:
    took, refused = [], 0
    before = database_cpu(pid)
    for _ in range(rounds + 1):
        start = time.perf_counter()
        answer = client.get(path)
        took.append((time.perf_counter() - start) * 1000)
        assert answer.status_code in (200, 503), (path, answer.status_code, answer.text[:300])
        refused += answer.status_code == 503
        time.sleep(PAUSE_SECONDS)
    first, *others = took
    cpu = (database_cpu(pid) - before) / len(took) * 1000
    path += f" (refused {refused} times)" if refused else ""
    return Took(path, first, statistics.median(others), max(others), cpu)


def measure(url: str, rounds: int, only: str = "") -> dict[str, list[Took]]:
    """By kind of page."""
    at = known(url)
    with closing(connect(address_of(url))) as db:
        pid = int(db.native("select split_part(pg_read_file('postmaster.pid'), chr(10), 1)").fetchone()[0])
    with tempfile.TemporaryDirectory() as temporary, dashboard.server(Path(temporary), url) as address:
        client = httpx2.Client(
            base_url=address, timeout=120, headers={"authorization": f"Bearer {MASTER_KEY}"}
        )
        client.post("/ui/sign-in", content=f"secret={MASTER_KEY}", headers=FORM)
        return {
            kind: [
                timed(client, quote(path, safe="/?&=,:-%"), rounds, pid) for path in make(at) if only in path
            ]
            for kind, make in (("dashboard", pages), ("/spend", spend), ("/spend/logs", logs))
        }


@contextlib.contextmanager
def filled(rows: int) -> Iterator[str]:
    """The address of a database with this number of requests, on a server of its own."""
    folder = programs()
    assert folder is not None, "there is no PostgreSQL"
    server = PostgresServer(folder, "shared_buffers=512MB", "max_wal_size=8GB")
    try:
        fill(address_of(server.address()), rows)
        yield server.address()
    finally:
        server.remove()


def reports(rows: int, rounds: int, database: str | None = None) -> Section:
    """Fills a database first, unless it is given."""
    with contextlib.nullcontext(database) if database else filled(rows) as url:
        found = measure(url, rounds)
        sessions = known(url).sessions
    return section(found, rows, sessions, rounds)


def section(found: Mapping[str, Sequence[Took]], rows: int, sessions: int, rounds: int) -> Section:
    """The slowest of each kind."""
    every = [one for several in found.values() for one in several]
    late = sum(one.median > MAX_MS for one in every)
    text = [
        paragraph(
            TEXT.format(
                date=datetime.now(UTC).date(),
                rows=rows,
                sessions=sessions,
                rounds=rounds,
                count=len(every),
                late=late,
                most=MAX_MS,
            )
        )
    ]
    reached = []
    for kind, several in found.items():
        slowest = sorted(several, key=lambda one: -one.median)
        lines = [
            (f"`{one.path}`", figure(one.first), figure(one.median), figure(one.worst), figure(one.cpu))
            for one in slowest[:SHOWN]
        ]
        text.append(
            table(
                [f"slowest of {len(several)}: {kind}", "first", "median", "worst", "database CPU ms"], lines
            )
        )
        share = sum(one.median <= MAX_MS for one in several) / len(several)
        reached.append(
            at_least(f"{TITLE}: {kind}, within {MAX_MS:.0f} ms over {rows:,} requests", share, 1.0, "{:.0%}")
        )
    return Section(TITLE, "\n\n".join(text), reached)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--database")
    parser.add_argument("--section", action="store_true", help="print the section for RESULTS.md")
    parser.add_argument("--only", default="", help="paths that contain this")
    given = parser.parse_args()
    if given.section:
        print(reports(given.rows, given.rounds, given.database))
        return
    with contextlib.nullcontext(given.database) if given.database else filled(given.rows) as url:
        for kind, found in measure(url, given.rounds, given.only).items():
            print(f"{kind:90} {'first':>8} {'median':>8} {'worst':>8} {'CPU':>8}")
            for one in found:
                late = "  over the goal" if max(one.first, one.median) > MAX_MS else ""
                print(
                    f"  {one.path[:88]:88} {one.first:8.1f} {one.median:8.1f} {one.worst:8.1f} {one.cpu:8.1f}{late}"
                )


if __name__ == "__main__":
    main()
