"""Sums from the cache equal plain sums over the requests, whatever happens between two answers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.windows import HOUR
from codellama_proxy.store import reports
from codellama_proxy.store.errors import accounting_unavailable
from codellama_proxy.store.overviews import Among
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql.overviews import OverviewQueries
from codellama_proxy.store.sql.rankings import MAX_AGE_SECONDS, Rankings
from codellama_proxy.store.sql.sums_cache import SumsCache
from codellama_proxy.store.sqlite.migrations import migrate, shipped
from codellama_proxy.store.sqlite.roll_up import roll_up
from tests.store.test_usage_totals import FIELDS, FIRST_DAY, History, expected, histories, reported
from tests.support.savepoints import rolled_back


class Reader:
    """Reads a database, and counts the rows that the statements returned."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.statements: list[str] = []
        self.error: ProxyError | None = None

    async def __call__(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.statements.append(sql)
        if self.error is not None:
            raise self.error
        return self.db.execute(sql, values).fetchall()


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, shipped())
        yield History(db)


def found(
    overviews: OverviewQueries, group_by: Sequence[str], wanted: Filters, among: Among | None = None
) -> list[tuple[Any, ...]]:
    names = reports.in_order(group_by)
    sums = asyncio.run(overviews.sums(group_by, wanted, among))
    assert sums.is_complete
    listed = [(*(one.groups[name] for name in names), *one[1:]) for one in sums.groups if names]
    return sorted(listed, key=repr) if names else [sums.total[1:]]


@settings(max_examples=80, deadline=None)
@given(happened=histories, asked=st.lists(reported, min_size=2, max_size=4))
def test_cached_sums_equal_plain_sums(
    history: History, happened: list[tuple[Any, ...]], asked: list[tuple[list[str], Filters]]
) -> None:
    with rolled_back(history.db):
        begun, overviews = History(history.db), OverviewQueries(Reader(history.db))
        for number, event in enumerate(happened):
            begun.happen(*event)
            group_by, wanted = asked[number % len(asked)]
            assert found(overviews, group_by, wanted) == expected(group_by, begun.matching(wanted))
        for group_by, wanted in asked * 2:
            assert found(overviews, group_by, wanted) == expected(group_by, begun.matching(wanted))


@settings(max_examples=60, deadline=None)
@given(happened=histories, asked=st.lists(reported, min_size=1, max_size=4), data=st.data())
def test_sums_of_some_values_and_the_largest_equal_plain_sums(
    history: History,
    happened: list[tuple[Any, ...]],
    asked: list[tuple[list[str], Filters]],
    data: st.DataObject,
) -> None:
    with rolled_back(history.db):
        begun, overviews = History(history.db), OverviewQueries(Reader(history.db))
        for event in happened:
            begun.happen(*event)
        for group_by, wanted in asked:
            group = data.draw(st.sampled_from(FIELDS))
            names = reports.in_order({group, *group_by})
            plain = expected(names, begun.matching(wanted))
            values = sorted({one[names.index(group)] for one in plain}, key=repr)
            some = tuple(data.draw(st.lists(st.sampled_from([*values, "unknown"]), unique=True)))
            for _ in range(2):
                kept = [one for one in plain if one[names.index(group)] in some]
                assert found(overviews, names, wanted, Among(group, some)) == kept
            alone = expected([group], begun.matching(wanted))
            ranked = [one[0] for one in sorted(alone, key=lambda one: (-one[4], one[0] or ""))]
            assert asyncio.run(overviews.largest(group, "spend", wanted, 3)) == tuple(ranked[:3])


def test_a_ranking_is_kept_for_a_minute_and_a_failure_as_well(history: History) -> None:
    with rolled_back(history.db):
        begun, reader, now = History(history.db), Reader(history.db), [0.0]
        rankings = Rankings(reader, lambda: now[0])

        def largest() -> tuple[str | None, ...]:
            return asyncio.run(rankings.largest("model", "requests", Filters(), 1))

        for model, number in (("small", 1), ("large", 2)):
            for _ in range(number):
                begun.request(0.0, dict.fromkeys(FIELDS) | {"project": "web", "model": model}, "ok", 1, 1)
            assert largest() == ("small",)
        now[0] += MAX_AGE_SECONDS
        assert largest() == ("large",)
        assert len(reader.statements) == 4, "two for each ranking: the end of the sums, and the groups"
        reader.error, now[0] = accounting_unavailable(), now[0] + MAX_AGE_SECONDS
        for _ in range(2):
            with pytest.raises(ProxyError):
                largest()
        assert len(reader.statements) == 5
        reader.error, now[0] = None, now[0] + MAX_AGE_SECONDS
        assert largest() == ("large",)


def test_only_requests_since_the_last_answer_are_read(history: History) -> None:
    with rolled_back(history.db):
        named: dict[str, str | None] = dict.fromkeys(FIELDS) | {"project": "web", "model": "small"}
        begun, reader = History(history.db), Reader(history.db)
        cache = SumsCache(reader)
        wanted = Filters(start=FIRST_DAY, end=FIRST_DAY + 80 * HOUR)

        def asked() -> int:
            reader.statements.clear()
            groups = asyncio.run(cache.sums(("model", "hour"), wanted))
            assert groups is not None
            return sum(amounts[0] for amounts in groups.values())

        for number in range(5):
            begun.request(number * 60.0, named, "ok", 1, 1)
        assert asked() == 5
        assert len(reader.statements) == 2
        assert asked() == 5
        assert len(reader.statements) == 1
        roll_up(history.db, 3)
        begun.request(500.0, named, "held", 0, 0)
        assert asked() == 6
        assert len(reader.statements) == 1
        begun.happen("settle a held one")
        assert asked() == 6
        begun.fold(5)
        assert asked() == 6
        assert len(reader.statements) > 1, "what was read before does not count after requests were removed"


def test_the_cache_is_bounded(history: History) -> None:
    with rolled_back(history.db):
        begun, reader = History(history.db), Reader(history.db)
        for number in range(6):
            named = dict.fromkeys(FIELDS) | {"project": "web", "model": f"model {number}"}
            begun.request(0.0, named, "ok", 1, 1)
        roll_up(history.db)
        assert asyncio.run(SumsCache(reader, groups=5).sums(("model",), Filters())) is None
        cache = SumsCache(reader, entries=1)
        for start in (1.0, 2.0, 1.0):
            reader.statements.clear()
            assert asyncio.run(cache.sums(("model",), Filters(start=start))) is not None
            assert len(reader.statements) == 2
        counts = []
        cache = SumsCache(reader, all_groups=11)
        for start in (1.0, 2.0, 2.0, 1.0):
            reader.statements.clear()
            assert asyncio.run(cache.sums(("model",), Filters(start=start))) is not None
            counts.append(len(reader.statements))
        assert counts == [2, 2, 1, 2]
