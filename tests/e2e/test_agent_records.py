"""Requests of coding agents in logs, rows, content, metrics, PromptLayer records, spans and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.test_metrics import samples
from tests.e2e.test_otel import Collector, attributes
from tests.support.dialects import anthropic_server
from tests.support.processes import until
from tests.support.promptlayer.process import PromptLayer, promptlayer
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

PRICE = {"input": 3, "output": 15}
IDS = {"x-claude-code-session-id": "session-1", "x-claude-code-agent-id": "agent-1"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}
DIALECTS = ("messages", "responses")
each_dialect = pytest.mark.parametrize("dialect", DIALECTS)
in_both_forms = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PromptLayer]:
    with promptlayer(tmp_path_factory.mktemp("promptlayer")) as one:
        yield one


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(scope="module")
def served(
    upstream_process: Upstream, module_proxy: ProxyFactory, service: PromptLayer, collector: Collector
) -> Iterator[Proxy]:
    with anthropic_server.serving() as claude:
        entry = {
            "provider": "anthropic",
            "base_url": claude.url,
            "api_key": anthropic_server.KEY,
            "price": PRICE,
        }
        models = [
            upstream_process.model("plain", "say=hello there;usage=100,7,40"),
            upstream_process.model("calling", "tools"),
            {"name": "claude", "model": "claude-sonnet-4-6", "fallbacks": [], **entry},
        ]
        yield module_proxy(
            config(
                *models,
                cache={"enabled": True},
                aliases={"claude-*": "claude"},
                tracking={
                    "requests": {"content": True},
                    "promptlayer": {"api_key": "${PROMPTLAYER_API_KEY}"},
                },
                projects={
                    "chats-only": {"endpoints": ["chat"]},
                    "messages-only": {"endpoints": ["messages"]},
                    "responses-only": {"endpoints": ["responses"]},
                },
            ),
            env={**service.env, **collector.env},
        )


def asked(
    proxy: Proxy, dialect: str, model: str, text: str, secret: str = "", /, tools: bool = False, **more: Any
) -> httpx2.Response:
    """One request of an agent with a system prompt; `tools`: with a function."""
    body: dict[str, Any] = {"model": model, **more}
    talk = [{"role": "user", "content": text}]
    match dialect:
        case "messages":
            body |= {"max_tokens": 100, "system": "Be brief.", "messages": talk}
            offered: Any = {
                "name": FUNCTION["name"],
                "input_schema": PARAMETERS,
                "description": "The weather.",
            }
        case "responses":
            body |= {"max_output_tokens": 100, "instructions": "Be brief.", "input": talk}
            offered = {"type": "function", **FUNCTION}
        case _:
            system = {"role": "system", "content": "Be brief."}
            body |= {"max_tokens": 100, "messages": [system, *talk]}
            offered = {"type": "function", "function": FUNCTION}
    if tools:
        body["tools"] = [offered]
    path = "/v1/chat/completions" if dialect == "chat" else f"/v1/{dialect}"
    headers = {"authorization": f"Bearer {secret or proxy.key}", **IDS}
    return proxy.client.post(path, json=body, headers=headers)


def answered(proxy: Proxy, *arguments: Any, **more: Any) -> tuple[str, dict[str, Any]]:
    """The id and the settled row of a request that was served."""
    answer = asked(proxy, *arguments, **more)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    return request_id, proxy.row(request_id)


@in_both_forms
@pytest.mark.parametrize("model", ["plain", "claude"])
@each_dialect
def test_log_row_and_content_show_the_endpoint_the_session_and_the_chat(
    served: Proxy, dialect: str, model: str, streamed: bool
) -> None:
    text = f"text of {dialect}, {model}, {streamed}"
    request_id, row = answered(served, dialect, model, text, tools=True, stream=streamed)
    shown = {"endpoint": dialect, "session": "session-1", "agent": "agent-1", "model": model}
    assert shown.items() <= row.items()
    (line,) = until(
        lambda: [one for one in served.log_lines() if one.get("request_id") == request_id], "its log line"
    )
    assert shown.items() <= line.items()
    found = served.client.get(f"/requests/{request_id}", headers=served.auth).json()
    assert shown.items() <= found.items()
    content = found["content"]
    assert [message["role"] for message in content["messages"]] == ["system", "system", "user"]
    texts = [flat(message["content"]) for message in content["messages"]]
    assert texts == [GUARDRAIL, "Be brief.", text]
    assert content["tools"][0]["function"]["name"] == "get_weather"
    (choice,) = content["choices"]
    assert choice["message"]["content"] == ("hello there" if model == "plain" else f"You said: {text}")
    assert choice["finish_reason"] == "stop"


def flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@in_both_forms
@each_dialect
def test_promptlayer_gets_the_chat_with_its_tools(
    served: Proxy, service: PromptLayer, dialect: str, streamed: bool
) -> None:
    request_id, row = answered(served, dialect, "calling", f"call, {streamed}", tools=True, stream=streamed)
    record = service.record(request_id)
    assert (record["provider"], record["api_type"]) == ("openai_compatible", "chat-completions")
    assert [message["role"] for message in record["input"]["messages"]] == ["system", "system", "user"]
    assert record["input"]["tools"][0]["function"]["name"] == "get_weather"
    (message,) = record["output"]["messages"]
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"
    shown = {"endpoint": dialect, "session": "session-1", "agent": "agent-1"}
    assert shown.items() <= record["metadata"].items()
    assert (record["input_tokens"], record["price"]) == (row["prompt_tokens"], pytest.approx(row["cost_usd"]))


@each_dialect
def test_a_span_shows_the_operation_and_the_session(
    served: Proxy, collector: Collector, dialect: str
) -> None:
    request_id, _ = answered(served, dialect, "plain", "a span")
    root, _ = collector.request(request_id)
    assert root.name == "chat plain"
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": "session-1",
        "proxy.endpoint": dialect,
        "proxy.agent": "agent-1",
    }
    assert expected.items() <= attributes(root).items()


@pytest.mark.parametrize("endpoint", ["chat", *DIALECTS])
def test_a_project_may_use_only_its_endpoints(served: Proxy, endpoint: str) -> None:
    for only in ("chats-only", "messages-only", "responses-only"):
        secret = served.new_key(only)["key"]
        info = served.client.get("/key/info", headers={"authorization": f"Bearer {secret}"}).json()
        assert info["endpoints"] == ["chat" if only == "chats-only" else only.removesuffix("-only")]
        answer = asked(served, endpoint, "plain", "is it allowed", secret)
        allowed = only.startswith(endpoint)
        assert answer.status_code == (200 if allowed else 404), (only, answer.text)
        count = {"messages": "/v1/messages/count_tokens", "responses": "/v1/responses/input_tokens"}
        if endpoint in count:
            body = {"model": "plain", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
            counted = served.client.post(
                count[endpoint], json=body, headers={"authorization": f"Bearer {secret}"}
            )
            assert counted.status_code == (200 if allowed else 404), (only, counted.text)


def test_metrics_name_the_routes_and_the_model_of_a_refused_alias(served: Proxy) -> None:
    secret = served.new_key("poor", max_budget=0.000001)["key"]
    for dialect in DIALECTS:
        refused = asked(served, dialect, "claude-opus-9", "too expensive", secret)
        assert refused.status_code == 429, refused.text
    found = until(
        lambda: (
            (all_of := samples(served)).get(("proxy_requests_total", "poor", "claude", "error")) and all_of
        ),
        "the refusals are counted",
    )
    assert found["proxy_requests_total", "poor", "claude", "error"] == 2
    page = served.admin("GET", "/metrics").text
    for dialect in DIALECTS:
        assert f'route="/{dialect}",method="POST",status="429"' in page or (
            f'method="POST",route="/{dialect}",status="429"' in page
        )


def test_equal_requests_of_all_dialects_share_one_answer(served: Proxy, upstream: Upstream) -> None:
    results = []
    for dialect, streamed in (("messages", True), ("chat", False), ("responses", True), ("messages", False)):
        answer = asked(served, dialect, "plain", "share this", tools=True, stream=streamed)
        assert streamed or "hello there" in answer.text
        results.append(answer.headers["x-proxy-cache"])
    assert results == ["miss", "hit", "hit", "hit"]
    assert len(upstream.journal.requests()) == 1


@each_dialect
def test_other_requests_do_not_share_it(served: Proxy, dialect: str) -> None:
    first = asked(served, "chat", "plain", f"other {dialect}")
    other = asked(served, dialect, "plain", f"other {dialect}", temperature=0.3)
    assert [one.headers["x-proxy-cache"] for one in (first, other)] == ["miss", "miss"]


def test_a_relayed_answer_is_not_shared(served: Proxy) -> None:
    states = [asked(served, "messages", "claude", "not this").headers["x-proxy-cache"] for _ in range(2)]
    assert "hit" not in states
