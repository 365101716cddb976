"""Sums equal plain sums over the requests on both database systems, whatever is in the sums at the moment."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama_proxy.core.clock import iso
from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.reports import GROUPS, MAX_ROWS, TIME_GROUPS, Filters, in_order
from codellama_proxy.store.sql import report_queries as queries
from codellama_proxy.store.sql import usage_totals
from codellama_proxy.store.sql.queries import Session
from codellama_proxy.store.sqlite.migrations import migrate, shipped
from codellama_proxy.store.sqlite.roll_up import roll_up
from tests.support.ledger_fixtures import NOW
from tests.support.postgres import Databases
from tests.support.postgres_store import prepared_database
from tests.support.savepoints import rolled_back

FIRST_DAY = NOW // DAY * DAY
INSERT = """
insert into {table} (seq, request_id, created_at, project, key_id, user, session, agent, model, status, prompt_tokens,
    cost_nanos, endpoint, stream, hold_nanos, estimate_tokens)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, 'chat/completions', 0, 0, 0)
"""
LATER_TABLES = ("usage_user_hours", "usage_session_hours")


class Row(NamedTuple):
    at: float
    project: str
    key: str | None
    user: str | None
    session: str | None
    agent: str | None
    model: str | None
    status: str
    cost: int | None

    def group(self, name: str) -> str | int | None:
        match name:
            case "day":
                return iso(self.at)[:10]
            case "hour":
                return int(self.at // HOUR * HOUR)
            case "three_hours":
                return int(self.at // (3 * HOUR) * 3 * HOUR)
        value: str | None = getattr(self, name)
        return value

    def matches(self, wanted: Filters) -> bool:
        names = {"key_id": "key", "start": "", "end": "", "request_id": ""}
        given = {
            names.get(name, name): value for name, value in wanted._asdict().items() if value is not None
        }
        if any(self.group(name) != value for name, value in given.items() if name):
            return False
        return (wanted.start is None or self.at >= wanted.start) and (
            wanted.end is None or self.at < wanted.end
        )


def either(*values: str) -> st.SearchStrategy[str | None]:
    return st.sampled_from([None, *values])


moments = st.one_of(
    st.integers(0, 80).map(lambda hours: FIRST_DAY + hours * HOUR),
    st.floats(0, 78 * HOUR).map(lambda seconds: FIRST_DAY + seconds),
)
rows = st.builds(
    Row,
    st.floats(0, 78 * HOUR).map(lambda seconds: FIRST_DAY + seconds),
    st.sampled_from(["web", "ops"]),
    either("key_a", "key_b"),
    either("bob", "eve"),
    either("s1", "s2"),
    either("a1"),
    either("small", "large"),
    st.sampled_from(["ok", "error", "cancelled"]),
    st.one_of(st.none(), st.integers(0, 10**9)),
)
asked = st.tuples(
    st.lists(st.sampled_from((*GROUPS, *TIME_GROUPS)), max_size=4, unique=True),
    st.builds(
        Filters,
        project=either("web"),
        key_id=st.one_of(st.none(), either("key_a")),
        model=st.one_of(st.none(), either("small")),
        user=st.one_of(st.none(), either("bob")),
        status=st.one_of(st.none(), either("error")),
        session=st.one_of(st.none(), st.none(), either("s1")),
        agent=st.one_of(st.none(), either("a1")),
        request_id=st.none(),
        start=st.one_of(st.none(), moments),
        end=st.one_of(st.none(), moments),
    ),
)


@pytest.fixture(scope="module")
def postgres(postgres_databases: Databases) -> Iterator[PostgresSession]:
    with closing(connect(prepared_database(postgres_databases))) as db:
        yield db


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, shipped())
        yield db


@given(
    requests=st.lists(rows, max_size=30),
    summed=st.integers(0, 30),
    filled=st.integers(0, 30),
    removed=st.integers(0, 6),
    reports=st.lists(asked, min_size=3, max_size=8),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_equal_the_rows(
    postgres: PostgresSession,
    sqlite: sqlite3.Connection,
    requests: list[Row],
    summed: int,
    filled: int,
    removed: int,
    reports: list[tuple[list[str], Filters]],
) -> None:
    """`summed`: how many are in the sums; `filled`: how many are filled in after an upgrade; `removed`: the oldest."""
    removed = min(removed, summed)
    for db, table in ((postgres, "settled"), (sqlite, "requests")):
        with undone(db):
            happen(db, table, requests, summed, filled, removed)
            assert usage_totals.differences(db) == []
            kept = requests[removed:]
            for group_by, wanted in reports:
                assert spend(db, group_by, wanted) == expected(group_by, kept, wanted), (
                    table,
                    group_by,
                    wanted,
                )


def undone(db: Any) -> Any:
    return rolled_back(db) if isinstance(db, sqlite3.Connection) else rolled_back_on_a_server(db)


class rolled_back_on_a_server:  # noqa: N801 - as `rolled_back`
    def __init__(self, db: PostgresSession) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.script("begin")

    def __exit__(self, *_: object) -> None:
        self._db.roll_back()


def happen(db: Session, table: str, requests: Sequence[Row], summed: int, filled: int, removed: int) -> None:
    for number, row in enumerate(requests, 1):
        values = (number, f"req_{number}", *row[:8], row.cost)
        db.execute(INSERT.format(table=table), values)
    if summed and requests:
        if isinstance(db, sqlite3.Connection):
            roll_up(db, summed)
        else:
            usage_totals.add(db, 0, min(summed, len(requests)))
    # As after the migration of a database without the later sums.
    for later in LATER_TABLES:
        db.execute(f"delete from {later}")
    db.execute("update hours_filled_from set seq = (select upto from rolled_up)")
    for _ in range(filled // 5):
        usage_totals.fill_hours(db, 5)
    if removed:
        usage_totals.take_away(db, removed, table)
        db.execute(f"delete from {table} where seq <= ?", (removed,))


def spend(db: Session, group_by: Sequence[str], wanted: Filters) -> list[tuple[Any, ...]]:
    sql, values = queries.spend_page_query(group_by, wanted, 1, MAX_ROWS)
    found = db.execute(sql, values).fetchall()
    return sorted((tuple(row[1:]) for row in found if row[0] is None), key=repr)


def expected(group_by: Sequence[str], requests: Sequence[Row], wanted: Filters) -> list[tuple[Any, ...]]:
    groups: dict[tuple[Any, ...], list[int]] = {} if group_by else {(): [0] * 6}
    for one in requests:
        if one.matches(wanted):
            sums = groups.setdefault(tuple(one.group(name) for name in in_order(group_by)), [0] * 6)
            for at, more in enumerate((1, 1, 0, one.cost or 0, 0, int(one.cost is None))):
                sums[at] += more
    return sorted(((*name, *sums) for name, sums in groups.items()), key=repr)


def test_every_table_of_sums_is_checked(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    row = Row(FIRST_DAY + 5.0, "web", "key_a", "bob", "s1", "a1", "small", "ok", 7)
    for db, table in ((postgres, "settled"), (sqlite, "requests")):
        for one, column in itertools.product(usage_totals.TABLES, ("requests", "cost_nanos", "unpriced")):
            with undone(db):
                happen(db, table, [row], 1, 5, 0)
                assert usage_totals.differences(db) == []
                db.execute(f"update {one.name} set {column} = {column} + 1")
                (wrong,) = usage_totals.differences(db)
                assert wrong.scope == f"{one.name.removeprefix('usage_')}:{iso(FIRST_DAY)}"
