"""Reports of too many groups are refused before they are read, on both database systems."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql.queries import Query, Session
from codellama_proxy.store.sql.report_sizes import MAX_SESSION_SUMS, max_sums
from codellama_proxy.store.sql.row_reports import RowReports
from codellama_proxy.store.sqlite.connection import connect as connect_file
from codellama_proxy.store.sqlite.migrations import prepare
from tests.support.postgres import Databases
from tests.support.postgres_store import prepared_database

SUMS = """
insert into usage_sessions (day, project, session, agent, requests, prompt_tokens, completion_tokens, cost_nanos,
                            saved_nanos, unpriced)
with recursive n (x) as (select 1 union all select x + 1 from n where x < ?)
select x % 2 * 86400, 'web', 's' || x, '', 1, 0, 0, 0, 0, 0 from n
"""
HOURS = "insert into usage_hours values (?, 'web', 'm', 'ok', ?, 0, 0, 0, 0, 0, 1, 1)"


class Reports(RowReports):
    def __init__(self, db: Session) -> None:
        self._db = db
        self.read: list[str] = []

    async def _read(self, query: Query) -> list[tuple[Any, ...]]:
        self.read.append(query[0])
        return [tuple(row) for row in self._db.execute(*query).fetchall()]

    _sum = _read

    def count(self, group_by: Sequence[str], filters: Filters) -> int:
        return int(asyncio.run(self.spend(group_by, filters, size=1))["total"])


@pytest.fixture(params=["sqlite", "postgres"])
def reports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reports]:
    if request.param == "sqlite":
        prepare(tmp_path / "proxy.db")
        with closing(connect_file(tmp_path / "proxy.db")) as file:
            yield Reports(file)
    else:
        databases: Databases = request.getfixturevalue("postgres_databases")
        with closing(connect(prepared_database(databases))) as db:
            yield Reports(db)


def test_a_report_that_reads_too_many_sums_by_session_is_refused(reports: Reports) -> None:
    reports._db.execute(SUMS, (MAX_SESSION_SUMS,))
    assert reports.count(("session",), Filters()) == MAX_SESSION_SUMS
    reports._db.execute(SUMS.replace("'web'", "'ops'"), (2,))
    with pytest.raises(ProxyError, match="too many groups") as refused:
        reports.count(("session",), Filters())
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "invalid_value",
        "group_by",
    )
    assert "usage_sessions" in reports.read[-1]
    assert reports.read[-1].startswith("select count(*)")
    assert reports.count(("session",), Filters(project="web")) == MAX_SESSION_SUMS
    assert reports.count(("session",), Filters(start=float(DAY))) == MAX_SESSION_SUMS // 2
    assert reports.count(("project",), Filters()) == 0


def test_rows_of_a_part_of_a_day_count_towards_the_limit(reports: Reports) -> None:
    """Where no sums by hour have the groups."""
    for hour, requests in ((0, MAX_SESSION_SUMS), (HOUR, 1), (DAY, 10**9)):
        reports._db.execute(HOURS, (hour, requests))
    groups = ("session", "model")
    assert reports.count(groups, Filters(start=0.0, end=HOUR)) == 0
    for end in (HOUR + 1.0, DAY - 0.5):
        with pytest.raises(ProxyError, match="too many groups"):
            reports.count(groups, Filters(start=0.0, end=end))
        assert reports.count(("session", "agent"), Filters(start=0.0, end=end)) == 0
    assert reports.count(groups, Filters(start=0.0, end=float(DAY))) == 0


def test_the_limit_depends_on_the_number_of_groups() -> None:
    assert (
        max_sums(("session",), Filters())
        == max_sums(("session", "agent", "day", "model"), Filters())
        == 130_000
    )
    assert (
        max_sums(("project", "key", "model", "user", "day", "status", "session", "agent"), Filters())
        == 65_000
    )
    assert max_sums(("user",), Filters()) == 200_000
