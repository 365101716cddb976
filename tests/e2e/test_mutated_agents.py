"""Damaged requests of Claude Code and Codex over sockets, to every dialect: served or refused, never a 500."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.inbound.messages import test_mutated_requests as claude_code
from tests.inbound.responses import codex
from tests.inbound.responses.test_mutated_requests import mutation
from tests.support.dialects import cohere_server
from tests.support.dialects.loopback import Server, serving
from tests.support.dialects.native_server import native_server
from tests.support.mutations import dumps, paths
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE, Upstream

REQUESTS = 300
"""To each of the two endpoints."""
MODELS = ("plain", "claude", "gpt", "command", "mock", "chain")
EXPECTED = {200, 400, 404, 413, 502}
"""502: the upstream of the test does not understand what was passed on to it."""


@pytest.fixture(scope="module")
def vendors() -> Iterator[Server]:
    with native_server() as one:
        yield one


@pytest.fixture(scope="module")
def cohere() -> Iterator[Server]:
    with serving(cohere_server.answer) as one:
        yield one


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, vendors: Server, cohere: Server, module_proxy: ProxyFactory) -> Proxy:
    def entry(
        name: str, provider: str, url: str, model: str, key: str = "sk-upstream-secret-key"
    ) -> dict[str, Any]:
        place = {"base_url": url, "api_key": key, "model": model}
        return {"name": name, "provider": provider, "price": PRICE, "fallbacks": [], **place}

    claude = entry("claude", "anthropic", f"{vendors.url}/v1", "claude-opus-5-5")
    return module_proxy(
        config(
            upstream_process.model("plain", "say=hello there"),
            claude,
            entry("gpt", "openai", f"{vendors.url}/v1", "gpt-5.5"),
            entry("command", "cohere", f"{cohere.url}/v2", "command-a", cohere_server.KEY),
            {"name": "mock", "provider": "mock"},
            {**claude, "name": "chain", "fallbacks": ["gpt", "command", "plain"]},
            limits={"project": {"max_budget": 1000}},
            routing={"retries": 0, "cooldown": {"failures": 1000}},
        )
    )


def statuses(served: Proxy, path: str, bodies: Iterator[Any], headers: dict[str, str]) -> Counter[int]:
    found: Counter[int] = Counter()
    shown = {**headers, **served.auth, "content-type": "application/json"}
    shown.pop("x-api-key", None)
    for at, body in zip(range(REQUESTS), bodies, strict=False):
        named = body
        if isinstance(body, dict) and isinstance(body.get("model"), str):
            named = {**body, "model": MODELS[at % len(MODELS)]}
        sent = dumps(named)
        answer = served.client.post(path, content=sent, headers=shown)
        assert answer.status_code in EXPECTED, (answer.status_code, answer.text, sent)
        assert "internal_error" not in answer.text, sent
        assert "sk-upstream-secret" not in answer.text
        found[answer.status_code] += 1
    assert {row["status"] for row in served.settled_rows()} <= {"ok", "error"}
    return found


def test_damaged_requests_of_claude_code(served: Proxy) -> None:
    chance = random.Random(55)
    bodies = iter(lambda: claude_code.mutated(chance), None)
    found = statuses(served, "/v1/messages?beta=true", bodies, claude_code.HEADERS)
    assert min(found[200], found[400]) > REQUESTS // 10
    assert found[502] < REQUESTS // 10


def test_damaged_requests_of_codex(served: Proxy) -> None:
    chance = random.Random(56)
    places = [paths(body) for body in codex.BODIES]

    def damaged() -> Iterator[Any]:
        while True:
            at = chance.randrange(len(codex.BODIES))
            yield mutation(chance, codex.BODIES[at], places[at])

    found = statuses(served, "/v1/responses", damaged(), codex.HEADERS)
    assert min(found[200], found[400]) > REQUESTS // 10
    assert found[502] < REQUESTS // 10
