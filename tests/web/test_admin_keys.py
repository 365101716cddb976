"""The key endpoints over ASGI: who may, what is refused, what is answered; real store, real ledger."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
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
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.snapshot import (
    Cache,
    Guardrail,
    Limits,
    Project,
    Routing,
    Server,
    Snapshot,
    Tracking,
)
from codellama_proxy.core.types import Key
from codellama_proxy.limits.admission import AdmissionRequest, Settlement
from codellama_proxy.limits.rates import scopes_of
from codellama_proxy.store import key_fields
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.stored_keys import StoredKeys
from codellama_proxy.store.sqlite.writer import Writer
from codellama_proxy.web.admin import keys as web
from codellama_proxy.web.http import respond_error

MASTER = "master-key-of-the-tests"
NOW = 1_800_000_000.0

ADMIN_ONLY = [
    ("POST", "/key/generate", {}),
    ("GET", "/key/list", None),
    ("POST", "/key/update", {"key_id": "KEY", "rpm_limit": 1}),
    ("POST", "/key/block", {"key_id": "KEY"}),
    ("POST", "/key/unblock", {"key_id": "KEY"}),
    ("POST", "/key/delete", {"key_id": "KEY"}),
    ("POST", "/key/regenerate", {"key_id": "KEY"}),
]


def snapshot(**projects: Limits) -> Snapshot:
    of_key = Limits(rpm_limit=60, given=frozenset({"rpm_limit"}))
    of_all = Limits(max_budget=500 * NANOS, given=frozenset({"max_budget"}))
    return Snapshot(
        digest="0" * 12,
        models={},
        disabled=(),
        guardrail=Guardrail(),
        routing=Routing(),
        limits={"global": of_all, "project": Limits(), "key": of_key, "user": Limits()},
        projects={name: Project(name, limits, limits) for name, limits in projects.items()},
        cache=Cache(),
        tracking=Tracking(),
        server=Server(),
        auth_required=True,
        metrics_public=False,
    )


async def refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    return respond_error(error)


class Proxy:
    """The endpoints on a real database, without a gateway."""

    def __init__(self, path: Path) -> None:
        self.writer = Writer(path)
        self.reader = Reader(path)
        self.keys = Keys(StoredKeys(self.writer, self.reader), clock=lambda: NOW)
        self.ledger = Ledger(self.writer, self.reader, clock=lambda: NOW)
        self.snapshot = snapshot()
        self.master: str | None = MASTER

    def run(self, use: Callable[["Proxy"], Awaitable[None]]) -> None:
        async def main() -> None:
            await self.reader.open()
            await self.ledger.open()
            app = Starlette(
                routes=[
                    Route("/key/generate", web.generate, methods=["POST"]),
                    Route("/key/info", web.info),
                    Route("/key/list", web.list_keys),
                    *(
                        Route(f"/key/{verb.__name__}", verb, methods=["POST"])
                        for verb in (web.update, web.block, web.unblock, web.delete, web.regenerate)
                    ),
                ],
                exception_handlers={ProxyError: refusal},
            )
            app.state.runtime = SimpleNamespace(
                keys=self.keys,
                store=SimpleNamespace(reports=self.ledger),
                live=SimpleNamespace(snapshot=self.snapshot),
                master_key=self.master,
            )
            transport = httpx2.ASGITransport(app)
            try:
                async with httpx2.AsyncClient(transport=transport, base_url="http://proxy") as self.client:
                    await use(self)
            finally:
                await self.reader.close()

        asyncio.run(main())

    async def send(
        self, method: str, path: str, body: Any = None, *, secret: str | None = MASTER
    ) -> httpx2.Response:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return await self.client.request(method, path, json=body, headers=headers)

    async def ok(self, method: str, path: str, body: Any = None, *, secret: str = MASTER) -> dict[str, Any]:
        answer = await self.send(method, path, body, secret=secret)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def error(
        self, method: str, path: str, body: Any = None, *, secret: str | None = MASTER
    ) -> tuple[int, str, str | None]:
        answer = await self.send(method, path, body, secret=secret)
        assert set(answer.json()) == {"error"}, answer.text
        found = answer.json()["error"]
        return answer.status_code, found["code"], found["param"]

    async def spend(self, key: Key, nanos: int) -> None:
        ask = AdmissionRequest(
            request_id="req_1",
            created_at=NOW,
            project=key.project,
            key=key,
            user=None,
            endpoint="/chat/completions",
            model_requested="m",
            stream=False,
            config="0" * 12,
            scopes=scopes_of(self.snapshot, self.snapshot.project(key.project), key, None),
            prompt_estimate=10,
            prompt_bound=10,
            max_tokens=10,
            default_max_tokens=10,
            n=1,
            prices=(),
        )
        await self.ledger.admit(ask)
        self.ledger.settle(Settlement("req_1", "ok", 200, cost_nanos=nanos, basis="exact"))


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    prepare(tmp_path / "proxy.db")
    one = Proxy(tmp_path / "proxy.db")
    one.writer.start()
    yield one
    one.writer.close()
    one.ledger.delete_journal()


# --- who may -----------------------------------------------------------------------------------------------


def test_every_admin_endpoint_needs_the_master_key(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {})
        before = await proxy.ok("GET", "/key/list")
        for method, path, body in ADMIN_ONLY:
            sent = body and {**body, "key_id": made["key_id"]}
            for secret, expected in (
                (None, (401, "invalid_api_key", None)),
                ("", (401, "invalid_api_key", None)),
                ("sk-" + "a" * 43, (401, "invalid_api_key", None)),
                (MASTER[:-1], (401, "invalid_api_key", None)),
                (made["key"], (403, "admin_required", None)),
            ):
                assert await proxy.error(method, path, sent, secret=secret) == expected
        assert await proxy.ok("GET", "/key/list") == before

    proxy.run(use)


def test_without_a_master_key_admin_endpoints_are_off(proxy: Proxy) -> None:
    proxy.master = None

    async def use(proxy: Proxy) -> None:
        for method, path, body in ADMIN_ONLY:
            for secret in (None, "", "None", MASTER):
                assert await proxy.error(method, path, body, secret=secret) == (403, "admin_disabled", None)

    proxy.run(use)


# --- making and changing -----------------------------------------------------------------------------------


def test_only_generate_shows_the_secret(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        body = {
            "key_alias": "web-team",
            "duration": "30d",
            "models": ["codellama"],
            "max_budget": 10,
            "budget_duration": "month",
            "rpm_limit": 5,
            "tpm_limit": 1000,
            "max_parallel_requests": 2,
            "metadata": {"owner": "ann"},
        }
        made = await proxy.ok("POST", "/key/generate", body)
        secret = made.pop("key")
        assert re.fullmatch(r"sk-[0-9A-Za-z]{40,}", secret)
        assert made["expires"] == "2027-02-14T08:00:00Z"
        assert {**made, **body} == {**made, "duration": "30d"}
        answers = [
            await proxy.send("GET", "/key/list"),
            await proxy.send("GET", "/key/info", secret=secret),
            await proxy.send("GET", f"/key/info?key_id={made['key_id']}"),
            await proxy.send("POST", "/key/update", {"key": secret, "rpm_limit": 6}),
            await proxy.send("POST", "/key/block", {"key": secret}),
            await proxy.send("POST", "/key/unblock", {"key": secret}),
        ]
        assert [answer.status_code for answer in answers] == [200] * 6
        assert not any(secret in answer.text for answer in answers)
        assert not re.search(r"[0-9a-f]{64}", "".join(answer.text for answer in answers))
        renewed = await proxy.ok("POST", "/key/regenerate", {"key": secret})
        assert renewed["key"] != secret

    proxy.run(use)


def test_a_key_without_alias_belongs_to_the_project_default(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        assert (await proxy.ok("POST", "/key/generate", {}))["key_alias"] == "default"

    proxy.run(use)


def test_unknown_and_privileged_fields_are_refused_and_nothing_is_stored(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {})
        before = await proxy.ok("GET", "/key/list")
        for field in (
            "spent_n",
            "spend",
            "role",
            "admin",
            "id",
            "public_id",
            "secret_hash",
            "prefix",
            "nope",
        ):
            refused = (400, "unsupported_parameter", field)
            assert await proxy.error("POST", "/key/generate", {field: 1}) == refused
            named = {"key_id": made["key_id"], field: 1}
            for verb in ("update", "block", "unblock", "delete", "regenerate"):
                assert await proxy.error("POST", f"/key/{verb}", named) == refused
        for field in ("key", "key_id", "blocked", "project"):
            refused = (400, "unsupported_parameter", field)
            assert await proxy.error("POST", "/key/generate", {field: "x"}) == refused
        for body in ({"rpm_limit": -1}, {"max_budget": 1e12}, {"duration": "x"}):
            (param,) = body
            assert await proxy.error("POST", "/key/generate", body) == (400, "invalid_value", param)
        assert await proxy.ok("GET", "/key/list") == before

    proxy.run(use)


def test_a_number_beyond_json_is_not_stored(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        headers = {"authorization": f"Bearer {MASTER}", "content-type": "application/json"}
        for number in ("1e999", "NaN", "-1e999", "1e-999999999", "1e-400", "-1e-400", "1e-10"):
            content = f'{{"max_budget": {number}}}'
            answer = await proxy.client.post("/key/generate", content=content, headers=headers)
            assert answer.status_code == 400
        assert (await proxy.ok("GET", "/key/list"))["total"] == 0

    proxy.run(use)


@pytest.mark.parametrize("verb", ["update", "block", "unblock", "delete", "regenerate"])
def test_a_key_is_identified_by_exactly_one_string(proxy: Proxy, verb: str) -> None:
    async def use(proxy: Proxy) -> None:
        path = f"/key/{verb}"
        assert await proxy.error("POST", path, {}) == (400, "missing_required_parameter", "key_id")
        assert await proxy.error("POST", path, {"key_id": "a", "key": "b"}) == (400, "invalid_value", "key")
        assert await proxy.error("POST", path, {"key_id": 7}) == (400, "invalid_type", "key_id")
        assert await proxy.error("POST", path, {"key": ["a"]}) == (400, "invalid_type", "key")
        assert await proxy.error("POST", path, {"key_id": "key_nope"}) == (404, "not_found", None)
        assert await proxy.error("POST", path, {"key": "sk-nope"}) == (404, "not_found", None)

    proxy.run(use)


def test_blocking_updating_and_deleting_take_effect_immediately(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {"key_alias": "web"})
        name, secret = {"key_id": made["key_id"]}, made["key"]
        assert (await proxy.ok("GET", "/key/info", secret=secret))["blocked"] is False
        assert (await proxy.ok("POST", "/key/block", name))["blocked"] is True
        assert await proxy.error("GET", "/key/info", secret=secret) == (401, "key_blocked", None)
        await proxy.ok("POST", "/key/unblock", name)
        await proxy.ok("POST", "/key/update", {**name, "key_alias": "other", "rpm_limit": 9})
        seen = await proxy.ok("GET", "/key/info", secret=secret)
        assert (seen["project"], seen["rpm_limit"]) == ("other", 9)
        assert await proxy.ok("POST", "/key/delete", name) == {**name, "deleted": True}
        assert await proxy.error("GET", "/key/info", secret=secret) == (401, "invalid_api_key", None)

    proxy.run(use)


def test_regenerate_keeps_the_key_and_with_overlap_the_old_secret(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {"key_alias": "web"})
        name = {"key_id": made["key_id"]}
        second = await proxy.ok("POST", "/key/regenerate", {**name, "overlap": "1h"})
        for secret in (made["key"], second["key"]):
            assert (await proxy.ok("GET", "/key/info", secret=secret))["key_id"] == made["key_id"]
        await proxy.ok("POST", "/key/regenerate", name)
        for secret in (made["key"], second["key"]):
            assert await proxy.error("GET", "/key/info", secret=secret) == (401, "invalid_api_key", None)
        bad = {**name, "overlap": "soon"}
        assert await proxy.error("POST", "/key/regenerate", bad) == (400, "invalid_value", "overlap")

    proxy.run(use)


# --- looking -----------------------------------------------------------------------------------------------


def test_the_list_pages_through_every_key(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = {(await proxy.ok("POST", "/key/generate", {}))["key_id"] for _ in range(5)}
        pages = [await proxy.ok("GET", f"/key/list?page={page}&size=2") for page in (1, 2, 3, 4)]
        assert [len(page["data"]) for page in pages] == [2, 2, 1, 0]
        assert {key["key_id"] for page in pages for key in page["data"]} == made
        assert [(page["page"], page["size"], page["total"]) for page in pages] == [
            (n, 2, 5) for n in (1, 2, 3, 4)
        ]
        assert (await proxy.ok("GET", "/key/list"))["total"] == 5
        for query, param in (
            *(("page=0", "page"), ("page=x", "page"), ("page=-1", "page"), ("page=1.5", "page")),
            *(("size=0", "size"), ("size=1001", "size"), ("size=", "size"), ("size=٣", "size")),
        ):
            assert await proxy.error("GET", f"/key/list?{query}") == (400, "invalid_value", param)

    proxy.run(use)


def test_a_key_sees_only_itself(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        mine = await proxy.ok("POST", "/key/generate", {"key_alias": "a"})
        other = await proxy.ok("POST", "/key/generate", {"key_alias": "b"})
        secret = mine["key"]
        assert (await proxy.ok("GET", "/key/info", secret=secret))["key_id"] == mine["key_id"]
        assert (await proxy.ok("GET", f"/key/info?key={secret}", secret=secret))["key_id"] == mine["key_id"]
        own = f"/key/info?key_id={mine['key_id']}"
        assert (await proxy.ok("GET", own, secret=secret))["key_id"] == mine["key_id"]
        for query in (f"key_id={other['key_id']}", f"key={other['key']}", "key_id=key_nope", "key_id="):
            refused = await proxy.error("GET", f"/key/info?{query}", secret=secret)
            assert refused == (403, "admin_required", None)
        assert await proxy.error("GET", "/key/info", secret=None) == (401, "invalid_api_key", None)
        for query in (f"key_id={other['key_id']}", f"key={other['key']}"):
            assert (await proxy.ok("GET", f"/key/info?{query}"))["key_alias"] == "b"
        assert await proxy.error("GET", "/key/info") == (400, "missing_required_parameter", "key_id")
        assert await proxy.error("GET", "/key/info?key_id=key_nope") == (404, "not_found", None)

    proxy.run(use)


def test_info_shows_limits_with_their_source(proxy: Proxy) -> None:
    proxy.snapshot = snapshot(web=Limits(tpm_limit=7, given=frozenset({"tpm_limit"})))

    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {"key_alias": "web", "max_budget": 2.5})
        limits = (await proxy.ok("GET", "/key/info", secret=made["key"]))["limits"]
        assert limits["key"]["max_budget"] == {"value": 2.5, "source": "key"}
        assert limits["key"]["rpm_limit"] == {"value": 60, "source": "limits.key"}
        assert limits["key"]["tpm_limit"] == {"value": None, "source": None}
        assert limits["project"]["tpm_limit"] == {"value": 7, "source": "projects.web.limits"}

    proxy.run(use)


def test_info_shows_spend_and_remaining_budget(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        body = {"key_alias": "web", "max_budget": 2.5, "budget_duration": "day"}
        made = await proxy.ok("POST", "/key/generate", body)
        await proxy.spend(await proxy.keys.get(made["key_id"]), NANOS // 4)
        seen = await proxy.ok("GET", "/key/info", secret=made["key"])
        assert (seen["spend"], seen["remaining"], seen["reset"]) == (0.25, 2.25, "2027-01-16T00:00:00Z")
        scopes = {scope["scope"]: scope for scope in seen["scopes"]}
        assert scopes["key"]["remaining_requests"] == 59
        assert scopes["key"]["spend"] == scopes["project"]["spend"] == 0.25
        assert "global" not in scopes  # not one tenant's business
        asked = await proxy.ok("GET", f"/key/info?key_id={made['key_id']}")
        assert {scope["scope"]: scope["spend"] for scope in asked["scopes"]}["global"] == 0.25

    proxy.run(use)


def test_info_shows_the_spend_of_a_key_without_budget(proxy: Proxy) -> None:
    async def use(proxy: Proxy) -> None:
        made = await proxy.ok("POST", "/key/generate", {"key_alias": "web"})
        await proxy.spend(await proxy.keys.get(made["key_id"]), NANOS // 4)
        seen = await proxy.ok("GET", "/key/info", secret=made["key"])
        assert (seen["spend"], seen["remaining"], seen["reset"]) == (0.25, None, None)

    proxy.run(use)


def test_a_key_can_be_named() -> None:
    assert key_fields.read({"key_alias": "team", "name": "Ann's laptop"}).values["name"] == "Ann's laptop"
    with pytest.raises(ProxyError, match="printable"):
        key_fields.read({"name": "a\nb"})
