"""Reports from sums equal plain sums over the requests, at any moment and for any filters."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.clock import iso
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store import reports
from codellama_proxy.store.reports import (
    GROUPS,
    HOUR_GROUP,
    MAX_ROWS,
    THREE_HOURS_GROUP,
    TIME_GROUPS,
    Filters,
)
from codellama_proxy.store.sql import log_queries, usage_totals
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql.usage_ranges import split
from codellama_proxy.store.sqlite import daily_totals
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import migrate, prepare, shipped, statements
from codellama_proxy.store.sqlite.roll_up import roll_up
from tests.support.ledger_fixtures import NOW, Store, admit_row, ask, end, settle_row
from tests.support.savepoints import rolled_back

FIRST_DAY = NOW // DAY * DAY - 3 * DAY
FIELDS = ("project", "key", "model", "user", "status", "session", "agent")

moments = st.one_of(
    st.integers(-2, 80).map(lambda hours: FIRST_DAY + hours * HOUR),
    st.floats(0, 78 * HOUR).map(lambda seconds: FIRST_DAY + seconds),
)
names = st.fixed_dictionaries(
    {
        "project": st.sampled_from(["web", "ops"]),
        "key": st.sampled_from([None, "key_a", "key_b"]),
        "model": st.sampled_from([None, "small", "large"]),
        "user": st.sampled_from([None, "bob", "eve"]),
        "session": st.sampled_from([None, "s1"]),
        "agent": st.sampled_from([None, "a1"]),
    }
)
requests = st.tuples(
    st.just("request"),
    st.floats(0, 78 * HOUR),  # in any order: clocks jump
    names,
    st.sampled_from(["ok", "error", "cancelled", "held"]),
    st.one_of(st.none(), st.integers(0, 10**6)),
    st.integers(0, 1000),
)
others = st.one_of(
    st.tuples(st.just("roll up"), st.integers(1, 8)),
    st.tuples(st.just("interrupted roll up"), st.integers(1, 8)),
    st.tuples(st.just("fold"), st.integers(0, 3)),
    st.tuples(st.just("upgrade")),
    st.tuples(st.just("fill"), st.integers(1, 4)),
    st.tuples(st.just("settle a held one")),
)
histories = st.lists(st.one_of(requests, requests, others), max_size=40)
reported = st.tuples(
    st.lists(st.sampled_from((*GROUPS, *TIME_GROUPS)), max_size=3, unique=True),
    st.builds(
        Filters,
        project=st.sampled_from([None, None, "web"]),
        key_id=st.sampled_from([None, None, None, "key_a"]),
        model=st.sampled_from([None, None, "small"]),
        user=st.sampled_from([None, None, None, "bob"]),
        status=st.sampled_from([None, None, "ok", "error", "held"]),
        session=st.sampled_from([None, None, None, "s1"]),
        agent=st.sampled_from([None, None, None, "a1"]),
        request_id=st.none(),
        start=st.one_of(st.none(), moments),
        end=st.one_of(st.none(), moments),
    ),
)


@dataclass(frozen=True)
class Request:
    request_id: str
    at: float
    named: dict[str, str | None]
    status: str
    tokens: int = 0
    cost: int | None = None
    folded: bool = False

    def group(self, name: str) -> str | int | None:
        if name == HOUR_GROUP:
            return int(self.at // DAY * DAY if self.folded else self.at // HOUR * HOUR)
        if name == THREE_HOURS_GROUP:
            return int(self.at // DAY * DAY if self.folded else self.at // (3 * HOUR) * 3 * HOUR)
        if name == "day":
            return iso(self.at)[:10]
        if name == "status":
            return self.status
        return None if self.folded and name in ("session", "agent") else self.named[name]

    def matches(self, wanted: Filters) -> bool:
        expected = (wanted.project, wanted.key_id, wanted.model, wanted.user, wanted.status)
        expected += (wanted.session, wanted.agent)
        if any(value not in (None, self.group(name)) for name, value in zip(FIELDS, expected, strict=True)):
            return False
        if self.folded:  # a day at a time
            midnight = self.at // DAY * DAY
            return (wanted.start is None or wanted.start < midnight + DAY) and (
                wanted.end is None or wanted.end > midnight
            )
        return (wanted.start is None or self.at >= wanted.start) and (
            wanted.end is None or self.at < wanted.end
        )


@dataclass
class History:
    """A ledger, and a list of its requests."""

    db: sqlite3.Connection
    requests: dict[str, Request] = field(default_factory=dict)

    def happen(self, what: str, *details: Any) -> None:
        match what:
            case "request":
                self.request(*details)
            case "roll up":
                roll_up(self.db, *details)
            case "interrupted roll up":
                self.db.execute("savepoint interrupted")
                roll_up(self.db, *details)
                self.db.execute("rollback to interrupted")
                self.db.execute("release interrupted")
            case "fold":
                self.fold(*details)
            case "upgrade":
                self.upgrade()
            case "fill":
                usage_totals.fill_keys(self.db, *details)
                usage_totals.fill_hours(self.db, *details)
            case _:
                held = next((one for one in self.requests.values() if one.status == "held"), None)
                if held is not None:
                    self.settle(held, "ok", 7, 3)

    def request(
        self, seconds: float, named: dict[str, str | None], status: str, cost: int | None, tokens: int
    ) -> None:
        key = named["key"]
        request = ask(
            created_at=FIRST_DAY + seconds,
            project=named["project"],
            key=Key(key, named["project"] or "") if key else None,
            user=named["user"],
            session=named["session"],
            agent=named["agent"],
        )
        admit_row(self.db, request)
        held = Request(request.request_id, request.created_at, {**named, "model": None}, "held")
        self.requests[held.request_id] = held
        if status != "held":
            self.settle(replace(held, named=named), status, cost, tokens)

    def settle(self, held: Request, status: str, cost: int | None, tokens: int) -> None:
        model = held.named["model"]
        settled = end(
            held.request_id, cost, status=status, model=model, usage=Usage(tokens, 1), basis="exact"
        )
        settle_row(self.db, settled)
        self.requests[held.request_id] = replace(held, status=status, cost=cost, tokens=tokens)

    def fold(self, days: int) -> None:
        daily_totals.fold(self.db, FIRST_DAY + days * DAY)
        kept = {request_id for (request_id,) in self.db.execute("select request_id from requests")}
        for request_id, request in self.requests.items():
            if request_id not in kept:
                self.requests[request_id] = replace(request, folded=True)

    def upgrade(self) -> None:
        """As after the migrations of a database that had only sums by hour and by day."""
        tables = ("usage_keys", "usage_keys_from", "usage_models", "usage_users", "usage_user_hours")
        for table in (*tables, "usage_session_hours", "hours_filled_from", "usage_sessions"):
            self.db.execute(f"drop table {table}")
        for migration in shipped():
            if migration.name[5:] in ("usage_keys", "usage_models", "usage_users", "usage_sessions"):
                for statement in statements(migration.sql):
                    self.db.execute(statement)

    def matching(self, wanted: Filters) -> list[Request]:
        return [request for request in self.requests.values() if request.matches(wanted)]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, shipped())
        yield History(db)


@settings(max_examples=60, deadline=None)
@given(happened=histories, asked=st.lists(reported, min_size=4, max_size=12))
def test_reports_equal_plain_sums(
    history: History, happened: list[tuple[Any, ...]], asked: list[tuple[list[str], Filters]]
) -> None:
    with rolled_back(history.db):
        begun = History(history.db)
        for event in happened:
            begun.happen(*event)
        assert usage_totals.differences(history.db) == []
        for group_by, wanted in asked:
            requests = begun.matching(wanted)
            assert spend(history.db, group_by, wanted) == expected(group_by, requests)
            kept = [request.request_id for request in requests if not request.folded]
            assert log(history.db, wanted) == kept[::-1]
            for position, request_id in enumerate(kept):
                assert log_before(history.db, wanted, request_id) == kept[:position][::-1]
            assert counted(history.db, wanted) == len(kept)


def spend(db: sqlite3.Connection, group_by: Sequence[str], wanted: Filters) -> list[tuple[Any, ...]]:
    sql, values = queries.spend_page_query(group_by, wanted, 1, MAX_ROWS)
    rows = db.execute(sql, values).fetchall()
    return sorted((row[1:] for row in rows if row[0] is None), key=repr)


def expected(group_by: Sequence[str], requests: list[Request]) -> list[tuple[Any, ...]]:
    groups: dict[tuple[Any, ...], list[int]] = {} if group_by else {(): [0] * 6}
    for one in requests:
        name = tuple([one.group(group) for group in reports.in_order(group_by)])
        done = one.status != "held"
        added = (1, one.tokens, int(done), one.cost or 0, 0, int(done and one.cost is None))
        sums = groups.setdefault(name, [0] * 6)
        groups[name] = [a + b for a, b in zip(sums, added, strict=True)]
    return sorted(((*name, *sums) for name, sums in groups.items()), key=repr)


def log(db: sqlite3.Connection, wanted: Filters) -> list[str]:
    sql, values = log_queries.logs_query(wanted, 1, MAX_ROWS)
    return [row[0] for row in db.execute(sql, values)]


def log_before(db: sqlite3.Connection, wanted: Filters, request_id: str) -> list[str]:
    (seq,) = db.execute(queries.SQL["seq_of"], [request_id]).fetchone()
    return [row[0] for row in db.execute(*log_queries.before_query(wanted, seq, MAX_ROWS))]


def counted(db: sqlite3.Connection, wanted: Filters) -> int:
    sql, values = log_queries.count_query(wanted)
    return int(db.execute(sql, values).fetchone()[0])


@given(start=st.one_of(st.none(), moments), end=st.one_of(st.none(), moments), at=moments)
def test_a_moment_is_in_the_whole_units_or_in_one_edge(
    start: float | None, end: float | None, at: float
) -> None:
    parts = split(start, end, HOUR)
    hour = at // HOUR * HOUR
    whole = (parts.first is None or hour >= parts.first) and (parts.last is None or hour < parts.last)
    found = whole + sum(first <= at < last for first, last in parts.edges)
    assert found == ((start is None or start <= at) and (end is None or at < end))


@pytest.mark.parametrize(("after", "count"), [(0.0, 0), (0.00006, 1), (0.9, 1), (1.0, 1)])
def test_a_folded_day_counts_if_the_range_has_any_part_of_it(
    history: History, after: float, count: int
) -> None:
    with rolled_back(history.db):
        named: dict[str, str | None] = dict.fromkeys(FIELDS) | {"project": "web"}
        history.request(0.0, named, "ok", 5, 1)
        history.fold(2)
        found = spend(history.db, ("project",), Filters(end=FIRST_DAY + after))
    assert [row[1] for row in found] == [1] * count


def test_a_held_request_stops_the_roll_up_before_it(history: History) -> None:
    with rolled_back(history.db):
        named: dict[str, str | None] = dict.fromkeys(FIELDS) | {"project": "web"}
        for status in ("ok", "held", "ok"):
            history.request(0.0, named, status, 5, 1)
        assert roll_up(history.db) == 1
        assert roll_up(history.db) == 0
        history.happen("settle a held one")
        assert roll_up(history.db) == 2


def test_sums_by_key_are_filled_in_bounded_steps(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "proxy.db", 0)) as db:
        db.execute("begin")
        past = History(db)
        for number in range(60):
            named: dict[str, str | None] = dict.fromkeys(FIELDS) | {
                "project": "web",
                "key": f"key_{number % 10}",
            }
            past.request(number // 20 * DAY, {**named, "user": str(number)}, "ok", number, 1)
        while roll_up(db):
            pass
        past.upgrade()
        before, sizes = spend(db, ("day", "key"), Filters()), [0]
        while usage_totals.fill_keys(db, 5):
            sizes.append(db.execute("select coalesce(sum(requests), 0) from usage_keys").fetchone()[0])
            assert spend(db, ("day", "key"), Filters()) == before
            assert spend(db, ("key",), Filters(project="web", end=FIRST_DAY + 1.5 * DAY)) != []
        db.execute("commit")
        assert sizes[-1] == 60
        assert all(more - fewer <= 6 for fewer, more in itertools.pairwise(sizes))
        assert daily_totals.reconcile(db) == []


def test_reconcile_reports_wrong_sums(tmp_path: Path) -> None:
    with closing(filled(tmp_path / "proxy.db", 20)) as db:
        roll_up(db)
        assert daily_totals.reconcile(db) == []
        db.execute("update usage_hours set cost_nanos = cost_nanos + 1")
        db.execute("delete from usage_days")
        db.execute("update usage_keys set requests = requests + 1")
        db.execute("update usage_models set unpriced = unpriced + 1")
        db.execute("update usage_users set saved_nanos = saved_nanos + 1")
        (hour, model, day, user, key) = daily_totals.reconcile(db)
    assert (hour.scope, hour.spent_nanos - hour.expected_spent_nanos) == (f"hours:{iso(FIRST_DAY)}", 1)
    assert (model.scope, model.spent_nanos, model.expected_spent_nanos) == (
        f"models:{iso(FIRST_DAY)}",
        190,
        190,
    )
    assert (day.scope, day.spent_nanos, day.expected_spent_nanos) == (f"days:{iso(FIRST_DAY)}", 0, 190)
    assert (user.scope, user.spent_nanos, user.expected_spent_nanos) == (f"users:{iso(FIRST_DAY)}", 190, 190)
    assert (key.scope, key.spent_nanos, key.expected_spent_nanos) == (f"keys:{iso(FIRST_DAY)}", 190, 190)


ROLLS_UP = """
import sys
from pathlib import Path
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.roll_up import roll_up
db = connect(Path(sys.argv[1]))
while True:
    db.execute("begin immediate")
    roll_up(db, 3)
    db.execute("commit")
    print(flush=True)
"""


def test_sums_are_exact_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    with closing(filled(path, 3000)) as db:
        before = spend(db, ("day", "key"), Filters())
        child = subprocess.Popen([sys.executable, "-c", ROLLS_UP, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in itertools.repeat(None, 50):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        (upto,) = db.execute("select upto from rolled_up").fetchone()
        assert 150 <= upto < 3000
        assert spend(db, ("day", "key"), Filters()) == before
        assert daily_totals.reconcile(db) == []
        while roll_up(db):
            pass
        assert spend(db, ("day", "key"), Filters()) == before


def filled(path: Path, count: int) -> sqlite3.Connection:
    """A database with settled requests, a nano-USD more each; none is in the sums yet."""
    prepare(path)
    db = connect(path)
    db.execute("begin")
    history = History(db)
    named: dict[str, str | None] = dict.fromkeys(FIELDS) | {"project": "web", "key": "key_a"}
    for cost in range(count):
        history.request(0.0, named, "ok", cost, 1)
    db.execute("commit")
    return db


def test_the_server_adds_settled_requests(tmp_path: Path) -> None:
    store = Store(tmp_path / "proxy.db")

    async def use(ledger: Any) -> tuple[int, dict[str, Any], list[Any]]:
        for cost in (3, 4):
            request = ask()
            await ledger.admit(request)
            ledger.settle(end(request, cost))
        added = await ledger.roll_up()
        return added, await ledger.spend((), Filters()), await ledger.reconcile()

    added, spent, differences = store.run(use)
    assert (added, spent["total_requests"], differences) == (2, 2, [])
    assert store.value("select sum(requests) from usage_days") == 2
