"""What coding agents ask for that costs extra, at every kind of provider: the ledger agrees with the upstreams."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from decimal import ROUND_CEILING, Decimal
from typing import Any, NamedTuple

import httpx2
import pytest

from codellama_proxy.core.types import Usage
from tests.support.dialects import ai21, ai21_server, anthropic, anthropic_server, cohere, cohere_server
from tests.support.dialects.loopback import serving
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

PRICE = {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75}
USD = {name: Decimal(str(price)) for name, price in PRICE.items()}
BUDGET = 0.05
"""USD. An answer of 128 000 tokens could cost 1.92."""
SCRIPTED = Usage(1200, 40, cached_tokens=300)
REPORTED: Mapping[str, Usage] = {
    "anthropic": anthropic.DIALOGUE.usage,
    "cohere": cohere.DIALOGUE.usage,
    "ai21": ai21.DIALOGUE.usage,
    **dict.fromkeys(("groq", "together", "openrouter", "gemini", "vllm"), SCRIPTED),
}
"""By provider: what its upstream says each answer used."""
HOUR = {"type": "ephemeral", "ttl": "1h"}
LONG = "Only code, please. " * 300
FUNCTION = {"type": "object", "properties": {"city": {"type": "string"}}}
MESSAGES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "an agent's turn": {
        "max_tokens": 128_000,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "max"},
        "system": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "get_weather", "input_schema": FUNCTION}],
    },
    "a thinking budget above max_tokens": {
        "max_tokens": 32_000,
        "thinking": {"type": "enabled", "budget_tokens": 64_000},
    },
    "service_tier": {"service_tier": "priority"},
    "speed": {"speed": "fast"},
    "inference_geo": {"inference_geo": "us"},
    "an hour": {"system": [{"type": "text", "text": LONG, "cache_control": HOUR}]},
    "an hour for all": {"cache_control": HOUR},
    "search among others": {
        "tools": [
            {"name": "get_weather", "input_schema": FUNCTION},
            {"type": "web_search_20250305", "name": "web_search"},
        ]
    },
    "search alone": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "fallbacks": {"fallbacks": [{"model": "claude-opus-5-5"}]},
    "mcp_servers": {"mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "m"}]},
}
RESPONSES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "an agent's turn": {
        "max_output_tokens": 128_000,
        "instructions": LONG,
        "reasoning": {"effort": "xhigh", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "prompt_cache_key": "thread",
        "tools": [{"type": "function", "name": "get_weather", "parameters": FUNCTION}],
    },
    "service_tier": {"service_tier": "priority"},
    "search among others": {
        "tools": [
            {"type": "function", "name": "get_weather", "parameters": FUNCTION},
            {"type": "web_search"},
            {"type": "image_generation"},
        ]
    },
    "search alone": {"tools": [{"type": "web_search"}]},
    "search forced": {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
    "code_interpreter": {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    "background": {"background": True},
}
ASKED = [
    *(("messages", case, more) for case, more in MESSAGES.items()),
    *(("responses", case, more) for case, more in RESPONSES.items()),
]
PAID_WORDS = (
    "priority",
    "fast",
    "web_search",
    "image_generation",
    "code_interpreter",
    "mcp_servers",
    "fallbacks",
)
"""In a request to an upstream, these would cost what the ledger does not know."""


def _of_thinking(why: str) -> bool:
    """A relay leaves it to the client what it asks of Claude's thinking."""
    return "thinking: " in why or "output_config.effort: " in why


@pytest.fixture(scope="module")
def claude() -> Iterator[anthropic_server.Server]:
    with anthropic_server.serving() as one:
        yield one
    assert all(_of_thinking(why) for why in one.refused), one.refused


@pytest.fixture(scope="module")
def served(
    upstream_process: Upstream, module_proxy: ProxyFactory, claude: anthropic_server.Server
) -> Iterator[Proxy]:
    with ExitStack() as stack:
        others = {
            "cohere": (
                f"{stack.enter_context(serving(cohere_server.answer)).url}/v2",
                cohere_server.KEY,
                "command-a",
            ),
            "ai21": (
                f"{stack.enter_context(serving(ai21_server.answer)).url}/studio/v1",
                ai21_server.KEY,
                "jamba-large",
            ),
            "anthropic": (claude.url, anthropic_server.KEY, "claude-sonnet-4-6"),
        }
        entries: list[dict[str, Any]] = []
        for provider in REPORTED:
            for lenient in (False, True):
                own = {"name": f"{provider}{'-lenient' * lenient}", "price": PRICE, "drop_params": lenient}
                if provider in others:
                    url, key, model = others[provider]
                    model = "claude-haiku-4-5" if provider == "anthropic" and lenient else model
                    entries.append(
                        {
                            **own,
                            "provider": provider,
                            "base_url": url,
                            "api_key": key,
                            "model": model,
                            "fallbacks": [],
                        }
                    )
                else:
                    script = "say=done;usage=1200,40,300"
                    entries.append(upstream_process.model(own.pop("name"), script, provider=provider, **own))
        hour = {**entries[0], "name": "anthropic-hour", "price": {**PRICE, "cache_write_1h": 6}}
        yield module_proxy(config(*entries, hour))


NUMBERS = itertools.count()


def asked(proxy: Proxy, dialect: str, model: str, secret: str, **more: Any) -> httpx2.Response:
    own: dict[str, Any] = {"input": "hi"}
    if dialect == "messages":
        own = {"max_tokens": 1024, "messages": [{"role": "user", "content": "hi"}]}
    body = {"model": model, **own, **more}
    return proxy.client.post(f"/v1/{dialect}", json=body, headers={"authorization": f"Bearer {secret}"})


def cost(usage: Usage) -> float:
    plain = usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens
    exact = (
        plain * USD["input"]
        + usage.cached_tokens * USD["cached_input"]
        + usage.cache_write_tokens * USD["cache_write"]
        + usage.completion_tokens * USD["output"]
    )
    return float((exact * 1000).to_integral_value(ROUND_CEILING) / 10**9)


class Wire(NamedTuple):
    """The proxy, and what reaches the upstreams whose requests the test reads."""

    proxy: Proxy
    upstream: Upstream
    claude: anthropic_server.Server

    def bodies(self, since: tuple[int, int] = (0, 0)) -> list[dict[str, Any]]:
        return [*self.upstream.journal.bodies()[since[0] :], *self.claude.bodies[since[1] :]]

    def position(self) -> tuple[int, int]:
        return len(self.upstream.journal.bodies()), len(self.claude.bodies)


@pytest.fixture
def wire(served: Proxy, upstream: Upstream, claude: anthropic_server.Server) -> Wire:
    claude.bodies.clear()
    return Wire(served, upstream, claude)


def booked(
    wire: Wire, dialect: str, provider: str, lenient: bool, more: Mapping[str, Any], streamed: bool
) -> httpx2.Response:
    """One request in a project of its own with a small budget: what is booked is what the upstream reported."""
    made = wire.proxy.new_key(f"project-{next(NUMBERS)}", max_budget=BUDGET)
    before = wire.position()
    model = f"{provider}{'-lenient' * lenient}"
    answer = asked(wire.proxy, dialect, model, made["key"], stream=streamed, **more)
    said = f"{provider}, lenient: {lenient}: {answer.text[:300]}"
    usage, spent = REPORTED[provider], 0.0
    if answer.status_code == 200:
        row = wire.proxy.row(answer.headers["x-request-id"])
        spent = cost(usage)
        assert (row["endpoint"], row["status"], row["basis"]) == (dialect, "ok", "exact"), said
        assert (row["prompt_tokens"], row["completion_tokens"]) == usage[:2], said
        assert row["cost_usd"] == pytest.approx(spent, abs=1e-12), said
    else:
        assert answer.status_code == 400, said
        rows = wire.proxy.settled_rows(key_id=made["key_id"])
        assert not rows or {row["cost_usd"] for row in rows} == {0}, said
        assert wire.position() == before or _of_thinking(answer.text), said
    key = wire.proxy.client.get("/key/info", headers={"authorization": f"Bearer {made['key']}"}).json()
    assert key["spend"] == pytest.approx(spent, abs=1e-12), said
    for sent in wire.bodies(before):
        assert not [word for word in PAID_WORDS if word in str(sent)], (said, sent)
        assert "1h" not in str(sent), said
        bound = sent.get("max_completion_tokens", sent.get("max_tokens"))
        assert bound * PRICE["output"] / 10**6 < BUDGET
        if "x-proxy-max-tokens" in answer.headers:
            assert bound == int(answer.headers["x-proxy-max-tokens"])
    return answer


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("dialect", "case", "more"), ASKED, ids=[f"{d}: {case}" for d, case, _ in ASKED])
def test_what_costs_extra_is_refused_or_left_out_and_the_rest_is_booked(
    wire: Wire, dialect: str, case: str, more: Mapping[str, Any], streamed: bool
) -> None:
    """At each provider, with and without `drop_params`."""
    for provider, lenient in itertools.product(REPORTED, (False, True)):
        answer = booked(wire, dialect, provider, lenient, more, streamed)
        relayed = provider == "anthropic" and dialect == "messages"
        if answer.status_code == 200 or (relayed and _of_thinking(answer.text)):
            continue
        assert case not in ("plain", "an agent's turn", "a thinking budget above max_tokens"), answer.text
        assert not case.startswith("an hour") or (relayed and not lenient), answer.text


@pytest.mark.parametrize("seed", range(60))
def test_any_mixture_is_booked_as_the_upstream_reported(wire: Wire, seed: int) -> None:
    chosen = random.Random(seed)
    dialect = chosen.choice(("messages", "responses"))
    cases = list((MESSAGES if dialect == "messages" else RESPONSES).values())
    mixture: dict[str, Any] = {}
    for case in chosen.sample(cases, chosen.randint(2, 4)):
        tools = [*mixture.get("tools", []), *case.get("tools", [])]
        names = {tool.get("name", tool.get("type")): tool for tool in tools}
        mixture |= {**case, **({"tools": list(names.values())} if tools else {})}
    booked(
        wire, dialect, chosen.choice(list(REPORTED)), chosen.random() < 0.5, mixture, chosen.random() < 0.5
    )


def test_an_hour_with_a_price_is_sent_and_held(wire: Wire) -> None:
    made = wire.proxy.new_key("an-hour", max_budget=BUDGET)
    system = MESSAGES["an hour"]["system"]
    answer = asked(wire.proxy, "messages", "anthropic-hour", made["key"], system=system)
    assert answer.status_code == 200, answer.text
    assert "1h" in str(wire.claude.body["system"])
    assert wire.proxy.row(answer.headers["x-request-id"])["cost_usd"] == pytest.approx(
        cost(REPORTED["anthropic"]), abs=1e-12
    )
