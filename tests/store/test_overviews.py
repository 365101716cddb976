"""Overviews: their sums are those of `/spend`, and the rest is what the ledger has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.windows import DAY, HOUR, window
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.overviews import Balance
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sql.overviews import OverviewQueries
from codellama_proxy.store.sqlite.bounded_reads import BoundedReads
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.reader import Reader
from tests.support.ledger_fixtures import NOW, Store, ask, end, of_global, of_project, of_user

Use = Callable[[Ledger, OverviewQueries], Awaitable[Any]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "proxy.db")


def run(store: Store, use: Use) -> Any:
    async def main() -> Any:
        async with store.open() as ledger:
            reader = Reader(store.path, 2.0)
            await reader.open()
            try:
                return await use(ledger, OverviewQueries(BoundedReads(store.writer, reader)))
            finally:
                await reader.close()

    return asyncio.run(main())


async def request(ledger: Ledger, at: float = NOW, cost: int | None = 7, **given: Any) -> None:
    scopes = given.pop("scopes", ())
    settled = {name: given.pop(name) for name in ("status", "cache", "model", "total_ms") if name in given}
    asked = ask(*scopes, created_at=at, **given)
    await ledger.admit(asked)
    ledger.settle(end(asked, cost, usage=Usage(3, 4), **settled))


def test_an_empty_ledger_has_nothing(store: Store) -> None:
    async def use(_: Ledger, overviews: OverviewQueries) -> None:
        found = await overviews.sums(("model", "hour"), Filters())
        assert (found.groups, found.total.requests, found.is_complete) == ((), 0, True)
        assert await overviews.balances() == []
        assert await overviews.recent(None, 10) == []
        assert await overviews.keys(None) == []
        assert await overviews.since() is None

    run(store, use)


@pytest.mark.parametrize(
    "groups", [(), ("model",), ("model", "hour", "status"), ("key", "day"), ("project",)]
)
def test_sums_are_those_of_the_spend_report(store: Store, groups: tuple[str, ...]) -> None:
    async def use(ledger: Ledger, overviews: OverviewQueries) -> None:
        for hours in range(30):
            cost = None if hours % 7 == 0 else hours
            status = "error" if hours % 5 == 0 else "ok"
            project = "web" if hours % 3 else "ops"
            await request(
                ledger, NOW - hours * HOUR, cost, status=status, project=project, model=f"m{hours % 4}"
            )
            if hours == 20:
                await ledger.roll_up()
        await ledger.admit(ask())  # still held
        for filters in (Filters(), Filters(project="web"), Filters(start=NOW - 9 * HOUR, end=NOW - HOUR)):
            found = await overviews.sums(groups, filters)
            report = await ledger.spend(groups, filters, 1, 1000)
            assert found.total.requests == report["total_requests"]
            assert found.total.cost_nanos == round(report["total_cost_usd"] * 10**9)
            if groups:
                fields = ("requests", "prompt_tokens", "unpriced")
                shown = [
                    {**one.groups, **{field: getattr(one, field) for field in fields}} for one in found.groups
                ]
                rows = [{**row, "unpriced": row["unpriced_requests"]} for row in report["data"]]
                wanted = [{name: row[name] for name in shown[0]} for row in rows]
                assert sorted(shown, key=repr) == sorted(wanted, key=repr)

    run(store, use)


def test_balances_are_those_of_the_ledger(store: Store) -> None:
    async def use(ledger: Ledger, overviews: OverviewQueries) -> None:
        scopes = (
            of_global(max_budget=10**9, budget_duration="month"),
            of_project(max_budget=10**6),
            of_user("bob", max_budget=10**6, budget_duration="day"),
        )
        await request(ledger, cost=7, scopes=scopes, user="bob")
        await ledger.admit(ask(*scopes, user="bob"))
        month, day = window("month", NOW, NOW), window("day", NOW, NOW)
        assert sorted(await overviews.balances()) == [
            Balance("global:", "month", month.start, month.end, 7, 5),
            Balance("project:web", None, 0.0, None, 7, 5),
        ]
        assert await overviews.user_balances() == [
            Balance("user:web\x1fbob", "day", day.start, day.end, 7, 5)
        ]

    run(store, use)


def test_recent_requests_come_newest_first_and_without_running_ones(store: Store) -> None:
    async def use(ledger: Ledger, overviews: OverviewQueries) -> None:
        await request(ledger, NOW - 2, total_ms=1.0)
        await request(ledger, NOW - 1, total_ms=2.0, cache="hit", project="ops")
        await ledger.admit(ask())
        found = await overviews.recent(None, 10)
        assert [(one.created_at, one.total_ms, one.is_cached) for one in found] == [
            (NOW - 1, 2.0, True),
            (NOW - 2, 1.0, False),
        ]
        assert [one.total_ms for one in await overviews.recent("web", 10)] == [1.0]
        assert len(await overviews.recent(None, 1)) == 1

    run(store, use)


def test_keys_come_with_their_last_use(store: Store) -> None:
    with closing(connect(store.path)) as db:
        used, _ = key_rows.create(db, KeyChange({"key_alias": "web", "name": "used"}), NOW - 10)
        idle, _ = key_rows.create(db, KeyChange({"key_alias": "ops"}), NOW - 20)

    async def use(ledger: Ledger, overviews: OverviewQueries) -> None:
        for at in (NOW - 5, NOW - 3):
            await request(ledger, at, key=Key(used.key_id, "web"))
        found = await overviews.keys(None)
        assert [(one.key.key_id, one.last_used) for one in found] == [
            (used.key_id, NOW - 3),
            (idle.key_id, None),
        ]
        assert [one.key.name for one in await overviews.keys("web")] == ["used"]
        assert await overviews.known_keys(None) == [one.key for one in found]
        assert [one.name for one in await overviews.known_keys("web")] == ["used"]

    run(store, use)


def test_since_is_the_oldest_request_or_the_midnight_of_a_folded_one(store: Store) -> None:
    async def use(ledger: Ledger, overviews: OverviewQueries) -> None:
        await request(ledger, NOW - 3 * DAY)
        assert await overviews.since() == NOW - 3 * DAY
        await ledger.roll_up()
        assert await overviews.since() == (NOW - 3 * DAY) // HOUR * HOUR
        await request(ledger)
        assert await ledger.fold(NOW - DAY) == 1
        assert await overviews.since() == (NOW - 3 * DAY) // DAY * DAY

    run(store, use)
