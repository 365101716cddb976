"""Conversations over a provider with explicit prompt caching: each turn begins with the bytes of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.dialects import anthropic_server
from tests.support.dialects.anthropic_rules import marked_blocks
from tests.support.proxy_process import Proxy, ProxyFactory, config

LONG = "Answer in one word. " * 200
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
SAID = ("hi", "think", "weather", "and now?", "think", "bye")
PRICE = {"input": 3, "output": 15, "cached_input": 0.3}
MODELS = ("claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-5-5")


@pytest.fixture(scope="module")
def claude() -> Iterator[anthropic_server.Server]:
    with anthropic_server.serving() as one:
        yield one
    assert not one.refused, "the proxy sent what Anthropic refuses"


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory, claude: anthropic_server.Server) -> Proxy:
    entry = {"provider": "anthropic", "base_url": claude.url, "api_key": anthropic_server.KEY, "price": PRICE}
    models: list[dict[str, Any]] = [{"name": name, "fallbacks": [], **entry} for name in MODELS]
    return module_proxy(
        config(*models, {**models[0], "name": "unmarked", "model": MODELS[0], "cache_prompts": False})
    )


def posted(served: Proxy, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = served.client.post(path, json=body, headers=served.auth)
    assert answer.status_code == 200, answer.text
    row = served.row(answer.headers["x-request-id"])
    # 20 prompt tokens, of which 4 were read from the cache and 3 written, and 7 of the answer.
    assert row["cost_usd"] == pytest.approx((13 * 3 + 4 * 0.3 + 3 * 3.75 + 7 * 15) / 10**6)
    found: dict[str, Any] = answer.json()
    return found


def chat_turns(served: Proxy, model: str) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
    talk: list[dict[str, Any]] = [{"role": "system", "content": LONG}]
    for text in SAID:
        talk.append({"role": "user", "content": text})
        for _ in range(2):
            body = {"model": model, "messages": talk, "tools": [tool], "max_tokens": 4000}
            message = posted(served, "/v1/chat/completions", body)["choices"][0]["message"]
            talk.append(message)
            if not message.get("tool_calls"):
                break
            results = [
                {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
                for call in message["tool_calls"]
            ]
            talk += results


def responses_turns(served: Proxy, model: str) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
    items: list[dict[str, Any]] = []
    for text in SAID:
        items.append({"role": "user", "content": text})
        for _ in range(2):
            body = {
                "model": model,
                "instructions": LONG,
                "input": items,
                "tools": [tool],
                "include": ["reasoning.encrypted_content"],
            }
            output = posted(served, "/v1/responses", body)["output"]
            items += output
            calls = [item for item in output if item["type"] == "function_call"]
            if not calls:
                break
            items += [
                {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
                for call in calls
            ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("turns", [chat_turns, responses_turns])
def test_a_conversation_grows_at_its_end_only(
    served: Proxy, claude: anthropic_server.Server, turns: Any, model: str
) -> None:
    claude.bodies.clear()
    turns(served, model)
    bodies = claude.bodies[:]
    assert len(bodies) == len(SAID) + 1
    for before, after in pairwise(bodies):
        assert after["tools"] == before["tools"]
        assert after["system"] == before["system"]
        earlier = before["messages"]
        assert without_marks(after["messages"][: len(earlier)]) == without_marks(earlier)
        assert 3 <= len(marked_blocks(after)) <= 4
        assert after["messages"][len(earlier) - 1] == earlier[-1], "the last mark is still there"


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_marks(one) for name, one in value.items() if name != "cache_control"}
    return [without_marks(one) for one in value] if isinstance(value, list) else value


def test_an_entry_may_do_without_marks(served: Proxy, claude: anthropic_server.Server) -> None:
    chat_turns(served, "unmarked")
    assert not marked_blocks(claude.body)


def test_a_relayed_request_keeps_the_clients_marks_only(
    served: Proxy, claude: anthropic_server.Server
) -> None:
    mark = {"type": "ephemeral"}
    for marks in ({}, {"cache_control": mark}):
        system = [{"type": "text", "text": LONG, **marks}]
        talk = [{"role": "user", "content": "hi"}]
        posted(
            served,
            "/v1/messages",
            {"model": MODELS[0], "max_tokens": 99, "system": system, "messages": talk},
        )
        assert [block["text"] for block in marked_blocks(claude.body)] == [LONG] * len(marks)
