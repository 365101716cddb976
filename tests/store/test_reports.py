"""What `/spend` and `/spend/logs` read: the same on both database systems, before and after rows become sums."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from codellama_proxy.core.clock import iso_ms
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.reports import GROUPS, Filters
from tests.support.ledger_fixtures import NOW, Store, ask, end
from tests.support.postgres_store import PostgresStore, prepared_database

AnyStore = Store | PostgresStore
FIELDS = ("project", "key_id", "model", "user", "status", "session", "agent")
FOLDED = ("project", "key", "model", "user", "day", "status")
"""What is known of a request whose row is gone."""


class Made(NamedTuple):
    """A request as it was made."""

    name: str
    at: float
    project: str
    key_id: str | None
    user: str | None
    session: str | None
    agent: str | None
    model: str | None
    status: str
    cost: int | None
    prompt: int
    answer: int

    def group(self, name: str) -> str | None:
        if name == "day":
            return iso_ms(self.at)[:10]
        value: str | None = getattr(self, "key_id" if name == "key" else name)
        return value


MADE = [
    Made(
        f"req_{n:04d}",
        NOW - (30 - n) * DAY / 7,
        ("web", "ops")[n % 2],
        (None, "key_a", "key_b")[n % 3],
        (None, "bob", "eve", "eve@example.com")[n % 4],
        (None, "s1")[n % 2],
        (None, "a1", "a2")[n % 3],
        (None, "small", "large")[n % 3],
        ("ok", "ok", "error", "cancelled")[n % 4],
        None if n % 7 == 0 else n * 10**6 + 1,
        n,
        n * 2,
    )
    for n in range(30)
]
BY_NAME = {one.name: one for one in MADE}


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AnyStore:
    if request.param == "sqlite":
        return Store(tmp_path / "proxy.db")
    return PostgresStore(prepared_database(request.getfixturevalue("postgres_databases")))


def run(store: AnyStore, use: Callable[[Any], Awaitable[None]]) -> None:
    """`use` a ledger with the requests of `MADE`."""

    async def main() -> None:
        async with store.open() as ledger:
            for one in MADE:
                key = None if one.key_id is None else Key(one.key_id, one.project)
                request = ask(
                    request_id=one.name,
                    created_at=one.at,
                    project=one.project,
                    key=key,
                    user=one.user,
                    session=one.session,
                    agent=one.agent,
                )
                await ledger.admit(request)
                ledger.settle(
                    end(
                        request,
                        one.cost,
                        status=one.status,
                        model=one.model,
                        usage=Usage(one.prompt, one.answer),
                        content=f'{{"n": {one.prompt}}}' if one.prompt == 5 else None,
                    )
                )
            await use(ledger)

    asyncio.run(main())


def sums(made: list[Made], group_by: tuple[str, ...]) -> dict[tuple[str | None, ...], tuple[Any, ...]]:
    """What a report has to show: requests, tokens, cost, requests without a price."""
    found: dict[tuple[str | None, ...], list[Made]] = defaultdict(list)
    for one in made:
        found[tuple(one.group(name) for name in group_by)].append(one)
    return {
        group: (
            len(of),
            sum(one.prompt for one in of),
            sum(one.answer for one in of),
            None if all(one.cost is None for one in of) else sum(one.cost or 0 for one in of),
            sum(one.cost is None for one in of),
        )
        for group, of in found.items()
    }


def shown(report: dict[str, Any], group_by: tuple[str, ...]) -> dict[tuple[str | None, ...], tuple[Any, ...]]:
    return {
        tuple(one[name] for name in group_by): (
            one["requests"],
            one["prompt_tokens"],
            one["completion_tokens"],
            None if one["cost_usd"] is None else int(Decimal(str(one["cost_usd"])) * 10**9),
            one["unpriced_requests"],
        )
        for one in report["data"]
    }


def test_sums_by_every_group_are_those_of_the_requests_at_any_time(store: AnyStore) -> None:
    async def all_right(ledger: Any, groups: tuple[str, ...], filters: Filters, made: list[Made]) -> None:
        pairs = [(first, second) for first in groups for second in groups if first < second]
        for asked in [(), *((name,) for name in groups), *pairs]:
            group_by = tuple(name for name in GROUPS if name in asked)
            report = await ledger.spend(group_by, filters)
            assert shown(report, group_by) == (sums(made, group_by) if made else {}), group_by
            assert report["total_requests"] == len(made)
            assert int(Decimal(str(report["total_cost_usd"])) * 10**9) == sum(one.cost or 0 for one in made)

    async def use(ledger: Any) -> None:
        web = [one for one in MADE if one.project == "web"]
        for _ in range(2):  # from rows, then from sums by hour and day
            await all_right(ledger, GROUPS, Filters(), MADE)
            await all_right(ledger, GROUPS, Filters(project="web"), web)
            await all_right(ledger, GROUPS, Filters(user="unknown"), [])
            store.now = NOW + 60
            await ledger.roll_up()
        store.now = NOW + 2 * DAY
        await ledger.roll_up()
        assert await ledger.fold(NOW - DAY) > 10
        await all_right(ledger, FOLDED, Filters(), MADE)
        await all_right(ledger, FOLDED, Filters(project="web"), web)
        assert await ledger.reconcile() == []

    run(store, use)


@pytest.mark.parametrize("field", FIELDS)
def test_a_filter_finds_the_requests_with_its_value(store: AnyStore, field: str) -> None:
    async def use(ledger: Any) -> None:
        for value in {getattr(one, field) for one in MADE} - {None} | {"unknown"}:
            wanted = [one.name for one in MADE[::-1] if getattr(one, field) == value]
            rows, total = await ledger.logs(Filters(**{field: value}), 1, 100)
            assert ([row["request_id"] for row in rows], total) == (wanted, len(wanted))
            report = await ledger.spend((), Filters(**{field: value}))
            assert report["total_requests"] == len(wanted)

    run(store, use)


def test_the_log_is_shown_in_pages_from_the_newest(store: AnyStore) -> None:
    async def use(ledger: Any) -> None:
        seen: list[str] = []
        for page in range(1, 6):
            rows, total = await ledger.logs(Filters(), page, 7)
            assert total == len(MADE)
            seen += [row["request_id"] for row in rows]
        assert seen == [one.name for one in MADE[::-1]]
        older = await ledger.before(Filters(project="web"), MADE[11].name, 3)
        assert [row["request_id"] for row in older] == ["req_0010", "req_0008", "req_0006"]
        assert await ledger.before(Filters(), "req_unknown", 3) is None
        between = Filters(start=MADE[3].at, end=MADE[6].at)
        rows, total = await ledger.logs(between, 1, 10)
        assert ([row["request_id"] for row in rows], total) == (["req_0005", "req_0004", "req_0003"], 3)
        assert await ledger.logs(Filters(request_id="req_0009"), 1, 10) == (
            (await ledger.logs(Filters(), 21, 1))[0],
            1,
        )

    run(store, use)


def test_a_row_has_every_field_as_it_was_given(store: AnyStore) -> None:
    async def use(ledger: Any) -> None:
        rows, _ = await ledger.logs(Filters(), 1, 100)
        for row in rows:
            one = BY_NAME[row["request_id"]]
            given = (one.project, one.key_id, one.user, one.session, one.agent, one.model, one.status)
            names = ("project", "key_id", "user", "session", "agent", "model", "status")
            assert tuple(row[name] for name in names) == given
            assert (row["prompt_tokens"], row["completion_tokens"]) == (one.prompt, one.answer)
            assert row["created_at"] == iso_ms(one.at)
            assert row["stream"] is False
            assert row["attempts"] == []
            cost = row["cost_usd"]
            assert one.cost == (None if cost is None else int(Decimal(str(cost)) * 10**9))
        whole = await ledger.request("req_0005")
        assert whole["content"] == {"n": 5}
        assert "content" not in await ledger.request("req_0006")
        assert await ledger.request("req_unknown") is None

    run(store, use)
