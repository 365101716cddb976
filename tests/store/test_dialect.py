"""The SQL of `store.sql` runs on both database systems."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.location import ServerAddress, database_location
from codellama_proxy.store.overviews import Among
from codellama_proxy.store.postgres.dialect import translated
from codellama_proxy.store.postgres.migrations import is_current, migrate
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.reports import GROUPS, Filters
from codellama_proxy.store.request_search import Search
from codellama_proxy.store.sql import audit, keys, log_queries, report_queries, usage_totals
from codellama_proxy.store.sql.overviews import OverviewQueries
from codellama_proxy.store.sql.queries import Query, Session
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sqlite import migrations as sqlite_migrations
from tests.support.postgres import Databases


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("select a from t where b = ? and c = :d", "select a from t where b = %s and c = %(d)s"),
        (
            "select 'it?:x' || user, t.user, users, \"user\"",
            'select \'it?:x\' || "user", t."user", users, "user"',
        ),
        ("select a % 2, '100%'", "select a %% 2, '100%%'"),
        ("select cast(at as integer) / 3600", "select cast(floor(at) as bigint) / 3600"),
        ("min(a.x, excluded.x)", "least(a.x, excluded.x)"),
        ("min(seq), max(seq)", "min(seq), max(seq)"),
    ],
)
def test_statements_are_translated(written: str, expected: str) -> None:
    assert translated(written) == expected


FILTERS = (
    Filters(),
    Filters(start=1e9, end=1.1e9 + 5),
    Filters(project="x", status="ok"),
    Filters(session="a\0b"),
    Filters(agent="a", user="u"),
    Filters(key_id="a", user="b", model="m", status="held"),
    Filters(request_id="r", end=5.0),
)
GROUPINGS = ((), *((name,) for name in GROUPS), ("day", "key", "user"), tuple(GROUPS))


def reports() -> Iterator[Query]:
    for filters in FILTERS:
        yield log_queries.logs_query(filters, 1, 10)
        yield log_queries.count_query(filters)
        yield log_queries.before_query(filters, 5, 5)
        for group_by in GROUPINGS:
            yield report_queries.spend_query(group_by, filters)
            yield report_queries.spend_page_query(group_by, filters, 1, 10)
    yield log_queries.request_query("r")
    yield log_queries.after_query(5, 5)
    yield report_queries.SQL["seq_of"], ["r"]
    yield report_queries.SQL["uncertain"], []
    yield report_queries.SQL["before_last"], [3]


def audits() -> Iterator[Query]:
    for filters in (AuditFilters(), AuditFilters("p", "k", "create", "cli", 1.0, 2.0)):
        yield audit.page_query(filters, 1, 5)
        yield audit.count_query(filters)


@pytest.fixture(scope="module")
def address(postgres_databases: Databases) -> ServerAddress:
    found = database_location(postgres_databases.empty())
    assert isinstance(found, ServerAddress)
    return found


@pytest.fixture
def postgres(address: ServerAddress) -> Iterator[PostgresSession]:
    with closing(connect(address)) as db:
        migrate(db, address)
        yield db


@pytest.fixture
def sqlite() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        sqlite_migrations.migrate(db, sqlite_migrations.shipped())
        yield db


def test_every_report_runs_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    for sql, values in chain(reports(), audits()):
        assert postgres.execute(sql, values).fetchall() == sqlite.execute(sql, values).fetchall(), sql


def test_statements_about_keys_run_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    values = {
        **dict.fromkeys(("key_id", "project", "name", "models", "hash", "prefix"), "x"),
        **dict.fromkeys(("limits", "metadata"), "{}"),
        **dict.fromkeys(("created_at", "expires_at"), 1.0),
        "blocked": 0,
        "size": 5,
        "skip": 0,
        "most": 5,
    }
    for name, sql in keys.SQL.items():
        results = [_run(db, sql.replace("{ids}", "'x'"), values) for db in (postgres, sqlite)]
        assert results[0] == results[1], name


def _run(db: Session, sql: str, values: dict[str, object]) -> list[tuple[object, ...]]:
    cursor = db.execute(sql, values)
    return cursor.fetchall() if sql.startswith("select") else []


def test_sums_by_hour_and_day_run_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    for db in (postgres, sqlite):
        usage_totals.add(db, 0, 5)
        usage_totals.take_away(db, 5)
        assert usage_totals.differences(db) == []


def test_a_form_changes_keys_once_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    for db in (postgres, sqlite):
        key, _ = audit.create(db, "operator", KeyChange({"key_alias": "web"}), 1e9, "a-form")
        audit.rotate(db, "operator", key.key_id, 0.0, 1e9, "another-form")
        for form in ("a-form", "another-form"):
            with pytest.raises(ProxyError, match="sent before"):
                audit.create(db, "operator", KeyChange({"key_alias": "web"}), 1e9 + 5, form)
            with pytest.raises(ProxyError, match="sent before"):
                audit.rotate(db, "operator", key.key_id, 0.0, 1e9 + 5, form)
        assert db.execute("select count(*) from keys").fetchone()[0] == 1
        audit.create(db, "operator", KeyChange({"key_alias": "web"}), 1e9 + 31 * 86400, "a-third-form")
        assert db.execute("select token from used_forms").fetchall() == [("a-third-form",)]


@pytest.mark.usefixtures("postgres")
def test_a_form_sent_to_two_processes_at_once_makes_one_key(address: ServerAddress) -> None:
    def send(_: int) -> bool:
        with closing(connect(address)) as db, db.transaction():
            try:
                audit.create(db, "operator", KeyChange({"key_alias": "web"}), 1e9, "one-form")
            except ProxyError:
                return False
            return True

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(send, range(4))) == [False, False, False, True]


def test_sums_by_key_are_filled_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    assert [usage_totals.fill_keys(db) for db in (postgres, sqlite)] == [0, 0]
    filled = []
    for db in (postgres, sqlite):
        for day, key_id in ((0, "k"), (0, "K"), (86400, "K"), (86400, "k")):
            db.execute(
                "insert into usage_days values (?, 'p', ?, 'u', '', '', 'm', 'ok', 1, 1, 1, 1, 1, 0)",
                (day, key_id),
            )
        db.execute("update usage_keys_from set day = 172800")
        steps = 0
        while usage_totals.fill_keys(db, 1):
            steps += 1
        filled.append((steps, db.execute("select * from usage_keys order by day, key_id").fetchall()))
    assert filled[0] == filled[1]
    assert (filled[0][0], len(filled[0][1])) == (5, 4)


def test_a_second_migration_changes_nothing(postgres: PostgresSession, address: ServerAddress) -> None:
    assert is_current(postgres)
    assert migrate(postgres, address) == []


def test_overviews_and_searches_run_on_both(postgres: PostgresSession, sqlite: sqlite3.Connection) -> None:
    for db in (postgres, sqlite):
        db.execute("insert into usage_hours values (0, 'p', 'm', 'ok', 1, 1, 1, 1, 1, 0, 1, 9)")
    found = [asyncio.run(_looked_up(db)) for db in (postgres, sqlite)]
    assert found[0] == found[1]


async def _looked_up(db: Session) -> list[object]:
    async def read(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in db.execute(sql, values).fetchall()]

    overviews, search = OverviewQueries(read), RequestSearch(read)
    found: list[object] = [
        await overviews.sums(("hour", "project"), Filters()),
        await overviews.sums(("three_hours", "model"), Filters(start=1.0)),
        await overviews.sums(("day", "key"), Filters(project="q"), Among("key", ("k", None))),
        await overviews.largest("user", "tokens", Filters(project="q", start=1.0), 7),
        await overviews.balances(),
        await overviews.user_balances(),
        await overviews.recent("p", 5),
        await overviews.keys("p"),
        await overviews.known_keys("p"),
        await overviews.since(),
        await search.neighbours(Search(), "r"),
        await search.among(Search(), ["r"]),
    ]
    for filters in FILTERS:
        found += [await search.search(Search(filters, 200, 5.0, cached), None, 5) for cached in (True, False)]
    return found
