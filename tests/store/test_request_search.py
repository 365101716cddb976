"""Searches: exactly the matching requests, page by page, with bounded work."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.windows import DAY, HOUR
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.request_search import Found, Neighbours, Search
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sqlite.bounded_reads import BoundedReads
from codellama_proxy.store.sqlite.migrations import migrate, prepare, shipped
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.roll_up import roll_up
from tests.support.ledger_fixtures import NOW, Store, admit_row, ask, end, settle_row
from tests.support.savepoints import rolled_back

START = NOW // DAY * DAY - DAY

rows = st.tuples(
    st.floats(0, 6 * HOUR) | st.sampled_from([0.0, HOUR, 2 * HOUR]),  # in any order, and equal: clocks jump
    st.sampled_from(["web", "ops"]),
    st.sampled_from([None, "key_a"]),
    st.sampled_from([None, "bob"]),
    st.sampled_from(["small", "large"]),
    st.sampled_from(["ok", "ok", "error", "cancelled", "held"]),
    st.sampled_from(["hit", "miss"]),
    st.sampled_from([200, 502]),
    st.sampled_from([5.0, 5000.0]),
)
moments = st.none() | st.floats(-HOUR, 7 * HOUR).map(lambda seconds: START + seconds)
searches = st.builds(
    Search,
    filters=st.builds(
        Filters,
        project=st.sampled_from([None, None, "web", "none"]),
        key_id=st.sampled_from([None, None, "key_a"]),
        user=st.sampled_from([None, None, "bob"]),
        model=st.sampled_from([None, None, "small"]),
        status=st.sampled_from([None, None, "error", "ok", "held"]),
        session=st.none(),
        agent=st.none(),
        request_id=st.none(),
        start=moments,
        end=moments,
    ),
    cached=st.sampled_from([None, None, True, False]),
    http_status=st.sampled_from([None, None, 502]),
    min_ms=st.sampled_from([None, None, 1000.0]),
)


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, shipped())
        yield db


def reading(db: sqlite3.Connection) -> Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]:
    async def read(sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return db.execute(sql, values).fetchall()

    return read


class Log:
    """Requests in a ledger, and the same ones as a list."""

    def __init__(self, db: sqlite3.Connection, max_rows: int) -> None:
        self.db = db
        self.requests: list[tuple[str, tuple[Any, ...]]] = []
        self.found = RequestSearch(reading(db), max_rows, max_rows)

    def add(self, row: tuple[Any, ...]) -> None:
        seconds, project, key, user, model, status, cache, code, ms = row
        request = ask(
            created_at=START + seconds, project=project, key=Key(key, project) if key else None, user=user
        )
        admit_row(self.db, request)
        self.requests.append((request.request_id, row))
        if status != "held":
            settle_row(
                self.db,
                end(request, 1, status=status, model=model, cache=cache, usage=Usage(1, 1))._replace(
                    http_status=code, total_ms=ms
                ),
            )

    def expected(self, search: Search) -> list[str]:
        return [request_id for request_id, row in reversed(self.requests) if matches(row, search)]

    async def pages(self, search: Search, size: int) -> list[Found]:
        """Every page. A newer request arrives after each one."""
        pages: list[Found] = []
        before = None
        while True:
            page = await self.found.search(search, before, size)
            assert page is not None
            pages.append(page)
            if page.next is None:
                return pages
            assert page.next != before
            before = page.next
            self.add((6 * HOUR, "web", "key_a", "bob", "small", "ok", "miss", 200, 5.0))


def matches(row: tuple[Any, ...], search: Search) -> bool:
    seconds, project, key, user, model, status, cache, code, ms = row
    if status == "held":
        model = cache = code = ms = None
    wanted = search.filters
    return (
        all(
            asked in (None, value)
            for asked, value in (
                (wanted.project, project),
                (wanted.key_id, key),
                (wanted.user, user),
                (wanted.model, model),
                (wanted.status, status),
                (search.http_status, code),
            )
        )
        and (wanted.start is None or START + seconds >= wanted.start)
        and (wanted.end is None or START + seconds < wanted.end)
        and (search.cached is None or search.cached == (cache == "hit"))
        and (search.min_ms is None or (ms or 0) >= search.min_ms)
    )


@settings(max_examples=120, deadline=None)
@given(
    first=st.lists(rows, max_size=25),
    later=st.lists(rows, max_size=6),
    search=searches,
    size=st.integers(1, 8),
    max_rows=st.sampled_from([1, 3, 1000]),
)
def test_pages_together_are_the_matching_requests(
    database: sqlite3.Connection,
    first: list[tuple[Any, ...]],
    later: list[tuple[Any, ...]],
    search: Search,
    size: int,
    max_rows: int,
) -> None:
    with rolled_back(database):
        log = Log(database, max_rows)
        for row in first:
            log.add(row)
        while roll_up(database):
            pass
        for row in later:
            log.add(row)
        expected = log.expected(search)
        pages = asyncio.run(log.pages(search, size))
        assert [row["request_id"] for page in pages for row in page.rows] == expected
        assert all(len(page.rows) <= size for page in pages)
        assert all(page.searched_to is None or len(page.rows) <= size for page in pages)
        projects = {request_id: row[1] for request_id, row in log.requests}
        assert {search.filters.project or projects[page.next] for page in pages if page.next} == {
            projects[page.next] for page in pages if page.next
        }
        everything = log.expected(search)
        for request_id in expected:
            place = everything.index(request_id)
            assert asyncio.run(log.found.neighbours(search, request_id)) == Neighbours(
                everything[place - 1] if place else None,
                everything[place + 1] if place + 1 < len(everything) else None,
            )
        some = [request_id for request_id, _ in log.requests[::2]]
        among = asyncio.run(log.found.among(search, some))
        assert [row["request_id"] for row in among] == [one for one in log.expected(search) if one in some]


def test_a_page_before_an_unknown_request_does_not_exist(database: sqlite3.Connection) -> None:
    log = Log(database, 10)
    log.add((0.0, "web", "key_a", "bob", "small", "ok", "miss", 200, 5.0))
    foreign = log.requests[0][0]
    assert asyncio.run(log.found.search(Search(), foreign, 5)) == Found([])
    assert asyncio.run(log.found.search(Search(Filters(project="ops")), foreign, 5)) is None
    assert asyncio.run(log.found.search(Search(), "req_none", 5)) is None
    assert asyncio.run(log.found.neighbours(Search(), "req_none")) == Neighbours(None, None)
    assert asyncio.run(log.found.among(Search(), [])) == []


@pytest.mark.parametrize("status", [None, "error"])
@pytest.mark.parametrize("project", [None, "web"])
def test_one_step_reads_a_bounded_number_of_rows(
    database: sqlite3.Connection, project: str | None, status: str | None
) -> None:
    with rolled_back(database):
        log = Log(database, 100)
        for _ in range(2000):
            log.add((0.0, "web", "key_a", "bob", "small", status or "ok", "miss", 200, 5.0))
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        search = Search(Filters(project=project, status=status), min_ms=1000.0)
        database.set_progress_handler(count, 1)
        found = asyncio.run(log.found.search(search, None, 50))
        database.set_progress_handler(None, 0)
    assert found is not None
    assert found.rows == []
    assert found.searched_to == START
    assert steps < 100 * 30


def test_searches_include_what_was_settled_before(tmp_path: Path) -> None:
    store = Store(tmp_path / "proxy.db")

    async def use(ledger: Any) -> list[str]:
        reader = Reader(store.path, 2.0)
        await reader.open()
        try:
            searches = RequestSearch(BoundedReads(store.writer, reader))
            request = ask()
            await ledger.admit(request)
            ledger.settle(end(request, 3))
            found = await searches.search(Search(Filters(project="web")), None, 5)
            assert found is not None
            assert (await searches.among(Search(), [request.request_id]))[0]["cost_usd"] == 3e-9
            assert await searches.neighbours(Search(), request.request_id) == Neighbours(None, None)
            return [row["status"] for row in found.rows]
        finally:
            await reader.close()

    assert store.run(use) == ["ok"]


def test_a_statement_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    prepare(tmp_path / "proxy.db")

    async def use() -> None:
        reader = Reader(tmp_path / "proxy.db", 0.05)
        await reader.open()
        endless = "with recursive n (i) as (select 1 union all select i + 1 from n) select max(i) from n"
        try:
            with pytest.raises(StoreUnavailableError):
                await asyncio.wait_for(reader.all(endless), 10)
            assert await reader.all("select 1") == [(1,)]
        finally:
            await reader.close()

    asyncio.run(use())
