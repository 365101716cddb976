"""Reading the ledger over HTTP: filters that mean what they say, and nobody sees another project's money."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_proxy.auth.keys import Keys
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.windows import DAY
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.stored_keys import StoredKeys
from codellama_proxy.web.admin import spend as web
from codellama_proxy.web.http import respond_error
from tests.support.ledger_fixtures import NOW, Store, ask, end

MASTER = "master-key-of-the-tests"
ROW = {
    "request_id",
    "created_at",
    "project",
    "key_id",
    "user",
    "session",
    "agent",
    "endpoint",
    "model_requested",
    "model",
    "deployment",
    "upstream_model",
    "stream",
    "status",
    "http_status",
    "attempts",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_usd",
    "saved_usd",
    "basis",
    "cache",
    "first_ms",
    "total_ms",
    "config",
}


async def refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    return respond_error(error)


class Proxy:
    """The endpoints on a real database, without a gateway."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.secrets: dict[str, str] = {}
        self.keys: dict[str, Key] = {}

    async def enter(self, stack: AsyncExitStack) -> None:
        self.ledger: Ledger = await stack.enter_async_context(self.store.open())
        reader = Reader(self.store.path)
        await reader.open()
        stack.push_async_callback(reader.close)
        keys = Keys(StoredKeys(self.store.writer, reader), clock=lambda: NOW)
        for project in ("web", "ops"):
            self.keys[project], self.secrets[project] = await keys.create(KeyChange({"key_alias": project}))
        app = Starlette(
            routes=[
                Route("/spend", web.spend),
                Route("/spend/logs", web.logs),
                Route("/requests/{request_id}", web.one),
            ],
            exception_handlers={ProxyError: refusal},
        )
        app.state.runtime = SimpleNamespace(
            keys=keys,
            store=SimpleNamespace(reports=self.ledger),
            live=SimpleNamespace(snapshot=SimpleNamespace(auth_required=True)),
            master_key=MASTER,
        )
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://proxy")
        self.client = await stack.enter_async_context(client)

    def run(self, use: Callable[["Proxy"], Awaitable[None]]) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                await self.enter(stack)
                await use(self)

        asyncio.run(main())

    async def send(self, path: str, secret: str | None = MASTER, **query: Any) -> httpx2.Response:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return await self.client.get(path, params=query, headers=headers)

    async def ok(self, path: str, secret: str = MASTER, **query: Any) -> Any:
        answer = await self.send(path, secret, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def error(
        self, path: str, secret: str | None = MASTER, **query: Any
    ) -> tuple[int, str, str | None]:
        answer = await self.send(path, secret, **query)
        found = answer.json()["error"]
        return answer.status_code, found["code"], found["param"]

    async def spend(self, cost: int | None, project: str = "web", **given: Any) -> str:
        """One request, from admission to settlement; how it ended is in `given`, where `end` knows the word."""
        ending = {name: given.pop(name) for name in ("model", "status", "usage", "content") if name in given}
        request = ask(project=project, key=self.keys[project], **given)
        await self.ledger.admit(request)
        self.ledger.settle(end(request, cost, **ending))
        return request.request_id


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    return Proxy(Store(tmp_path / "proxy.db"))


# --- /spend/logs -----------------------------------------------------------------------------------------------


def test_a_row_has_the_documented_fields_and_is_available_immediately(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        request_id = await proxy.spend(1_500_000_000, user="bob", usage=Usage(3, 4, 1))
        found = await proxy.ok("/spend/logs")
        assert (found["page"], found["size"], found["total"]) == (1, 50, 1)
        (row,) = found["data"]
        assert set(row) == ROW
        assert row["request_id"] == request_id
        assert (row["cost_usd"], row["prompt_tokens"], row["completion_tokens"]) == (1.5, 3, 4)
        assert (row["key_id"], row["status"]) == (proxy.keys["web"].key_id, "ok")

    proxy.run(use)


def test_pages_list_every_row_once_newest_first(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = [await proxy.spend(1) for _ in range(7)]
        pages = [await proxy.ok("/spend/logs", page=page, size=3) for page in (1, 2, 3, 4)]
        assert [page["total"] for page in pages] == [7] * 4
        seen = [row["request_id"] for page in pages for row in page["data"]]
        assert seen == made[::-1]

    proxy.run(use)


def test_rows_before_a_request_are_paged_without_a_count(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = [await proxy.spend(1, project=project) for project in ("web", "ops") * 4]
        seen, found = [made[-1]], await proxy.ok("/spend/logs", before=made[-1], size=3)
        while found["data"]:
            assert found.keys() == {"data", "size"}
            seen += [row["request_id"] for row in found["data"]]
            found = await proxy.ok("/spend/logs", before=seen[-1], size=3)
        assert seen == made[::-1]
        found = await proxy.ok("/spend/logs", before=made[5], project="web")
        assert [row["request_id"] for row in found["data"]] == [made[4], made[2], made[0]]

    proxy.run(use)


def test_each_filter_finds_its_rows_and_no_others(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        await proxy.spend(1, project="ops")
        wanted = await proxy.spend(1, user="bob", model="gpt-4", created_at=NOW + DAY)
        await proxy.spend(1, status="error", user="eve")
        for query in (
            {"project": "web", "user": "bob"},
            {"user": "bob"},
            {"model": "gpt-4"},
            {"request_id": wanted},
            {"start": "2026-11-23"},
            {"start": NOW + DAY, "end": NOW + DAY + 1},
            {"start": "2026-11-23T15:30:00Z", "end": "2026-11-23"},
            {"start": "2026-11-23T17:30:00+02:00"},
            {"key_id": proxy.keys["web"].key_id, "status": "ok"},
        ):
            found = await proxy.ok("/spend/logs", **query)
            assert [row["request_id"] for row in found["data"]] == [wanted], query
            assert found["total"] == 1
        assert (await proxy.ok("/spend/logs", start=NOW, end=NOW))["data"] == []
        assert (await proxy.ok("/spend/logs", project="nobody"))["data"] == []

    proxy.run(use)


def test_a_running_request_is_listed_as_held(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        await proxy.ledger.admit(ask(key=proxy.keys["web"]))
        (row,) = (await proxy.ok("/spend/logs", status="held"))["data"]
        assert (row["status"], row["cost_usd"], row["http_status"], row["attempts"]) == (
            "held",
            None,
            None,
            [],
        )

    proxy.run(use)


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"page": "0"}, "invalid_value", "page"),
        ({"page": "-1"}, "invalid_value", "page"),
        ({"page": "one"}, "invalid_value", "page"),
        ({"page": "1" * 30}, "invalid_value", "page"),
        ({"page": "²"}, "invalid_value", "page"),
        ({"size": "1001"}, "invalid_value", "size"),
        ({"size": "0"}, "invalid_value", "size"),
        ({"status": "fine"}, "invalid_value", "status"),
        ({"start": "yesterday"}, "invalid_value", "start"),
        ({"start": "-1"}, "invalid_value", "start"),
        ({"start": "nan"}, "invalid_value", "start"),
        ({"end": "9" * 400}, "invalid_value", "end"),
        ({"end": "9999-12-31T23:59:59-14:00"}, "invalid_value", "end"),
        ({"start": "0001-01-01T00:00:00+14:00"}, "invalid_value", "start"),
        ({"project": ["web", "ops"]}, "invalid_value", "project"),
        ({"before": "req_unknown"}, "invalid_value", "before"),
        ({"before": "req_unknown", "page": "1"}, "invalid_value", "page"),
        ({"end": "2026-13-01"}, "invalid_value", "end"),
        ({"projekt": "web"}, "unsupported_parameter", "projekt"),
    ],
)
def test_an_invalid_parameter_is_refused_by_name(
    proxy: Proxy, query: dict[str, Any], code: str, param: str
) -> None:
    async def use(proxy: Proxy) -> None:
        assert await proxy.error("/spend/logs", **query) == (400, code, param)

    proxy.run(use)


def test_logs_need_the_master_key(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        assert (await proxy.error("/spend/logs", proxy.secrets["web"]))[:2] == (403, "admin_required")
        assert (await proxy.error("/spend/logs", None))[:2] == (401, "invalid_api_key")

    proxy.run(use)


# --- /spend ----------------------------------------------------------------------------------------------------


def test_spend_is_summed_by_any_groups(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        await proxy.spend(1_000_000_000, user="bob", usage=Usage(1, 2))
        await proxy.spend(2_000_000_000, user="eve", usage=Usage(3, 4), created_at=NOW + DAY)
        await proxy.spend(None, project="ops", usage=Usage(5, 6))
        total = await proxy.ok("/spend")
        assert (total["total_cost_usd"], total["total_requests"]) == (3.0, 3)
        assert total["data"][0]["unpriced_requests"] == 1
        found = await proxy.ok("/spend", group_by="project,day")
        assert [(row["project"], row["day"], row["cost_usd"], row["requests"]) for row in found["data"]] == [
            ("ops", "2026-11-22", None, 1),
            ("web", "2026-11-22", 1.0, 1),
            ("web", "2026-11-23", 2.0, 1),
        ]
        by_all = await proxy.ok("/spend", group_by="project,key,model,user,day,status")
        assert len(by_all["data"]) == 3
        assert {row["key"] for row in by_all["data"]} == {key.key_id for key in proxy.keys.values()}
        (one,) = (await proxy.ok("/spend", group_by="user", user="bob"))["data"]
        assert (one["user"], one["prompt_tokens"], one["completion_tokens"]) == ("bob", 1, 2)

    proxy.run(use)


def test_without_rows_the_sums_are_zero(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        for groups in ("", "project", "day,user"):
            found = await proxy.ok("/spend", group_by=groups)
            sums = {"data": [], "total_cost_usd": 0.0, "total_requests": 0, "total": 0}
            assert found == {**sums, "page": 1, "size": 1000}
        assert await proxy.error("/spend", group_by="project,colour") == (400, "invalid_value", "group_by")

    proxy.run(use)


def test_groups_are_paged_and_totals_cover_all_pages(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        for number in range(7):
            await proxy.spend(None if number == 3 else number * 10**9, user=f"user-{number}")
        pages = [await proxy.ok("/spend", group_by="user,project", page=page, size=3) for page in range(1, 5)]
        assert [(p["total"], p["total_requests"], p["total_cost_usd"]) for p in pages] == [(7, 7, 18.0)] * 4
        groups = [(group["user"], group["cost_usd"]) for page in pages for group in page["data"]]
        costs = [0, 1, 2, None, 4, 5, 6]
        assert groups == [(f"user-{number}", cost) for number, cost in enumerate(costs)]
        for query in ({"size": 1001}, {"size": 0}, {"page": 0}, {"page": "1" * 11}):
            assert (await proxy.error("/spend", **query))[:2] == (400, "invalid_value")

    proxy.run(use)


@pytest.mark.parametrize(
    "end", ["9999-12-31", "9999-12-31T23:59:59", "9999-12-31T23:59:59.999", 253402300799]
)
def test_a_filter_at_the_end_of_the_calendar_is_valid(proxy: Proxy, end: str | int) -> None:
    async def use(proxy: Proxy) -> None:
        await proxy.spend(1)
        await proxy.ledger.fold(NOW + 9 * DAY)
        await proxy.spend(1)
        assert (await proxy.ok("/spend", end=end))["total_requests"] == 2
        assert (await proxy.ok("/spend", start=end))["total_requests"] == 0
        assert (await proxy.ok("/spend/logs", end=end))["total"] <= 2

    proxy.run(use)


def test_a_key_sees_only_its_projects_spend(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        await proxy.spend(1_000_000_000)
        await proxy.spend(2_000_000_000, project="ops")
        secret = proxy.secrets["web"]
        for query in ({}, {"project": "web"}, {"group_by": "project"}):
            found = await proxy.ok("/spend", secret, **query)
            assert (found["total_cost_usd"], found["total_requests"]) == (1.0, 1), query
        for query in (
            {"project": "ops"},
            {"key_id": proxy.keys["ops"].key_id},
            {"project": "ops", "end": "2100-01-01"},
        ):
            assert (await proxy.ok("/spend", secret, **query))["total_requests"] == 0, query
        assert (await proxy.error("/spend", None))[:2] == (401, "invalid_api_key")

    proxy.run(use)


# --- /requests/{request_id} --------------------------------------------------------------------------------------


def test_a_request_is_visible_only_to_its_project(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        request_id = await proxy.spend(1, content='{"messages": ["hi"]}')
        path = f"/requests/{request_id}"
        for secret in (MASTER, proxy.secrets["web"]):
            row = await proxy.ok(path, secret)
            assert set(row) >= ROW
            assert row["content"] == {"messages": ["hi"]}
        assert (await proxy.error(path, None))[:2] == (401, "invalid_api_key")
        other = await proxy.send(path, proxy.secrets["ops"])
        unknown = await proxy.send(path.replace("req_", "rex_"), proxy.secrets["ops"])
        assert (other.status_code, unknown.status_code) == (404, 404)
        assert other.text.replace("req_", "rex_") == unknown.text

    proxy.run(use)
