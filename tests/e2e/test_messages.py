"""Anthropic's SDK at /v1/messages, over upstreams that speak OpenAI's dialect and over the built-in mock."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.anthropic_client import anthropic_error, anthropic_of
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from anthropic import Anthropic

BOTH = pytest.mark.parametrize("streamed", [False, True])
TOOL: Any = {
    "name": "get.weather",
    "description": "The weather of a city.",
    "input_schema": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"city": {"type": "string"}},
    },
}
HELLO: Any = [{"role": "user", "content": "Say hello"}]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain", "say=hello there;usage=100,7,40"),
            model("tools", "tools"),
            model("reasoning", "reasoning"),
            model("broken", "error_event_after=2;every=0.05", fallbacks=[]),
            model("busy", "status=429;retry_after=7", fallbacks=[]),
            model("down", "status=500", fallbacks=["plain"]),
            model("limited", "say=hi;delay=0.5", max_output_tokens=100, fallbacks=[]),
            {"name": "mock", "provider": "mock"},
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


def created(client: Anthropic, streamed: bool, **fields: Any) -> Any:
    """The message, whole or as the SDK puts a stream together."""
    request: Any = {"max_tokens": 50, "messages": HELLO, **fields}
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


@BOTH
@pytest.mark.parametrize("model", ["plain", "down"])
def test_a_message_is_answered(
    served: Proxy, client: Anthropic, upstream: Upstream, model: str, streamed: bool
) -> None:
    message = created(client, streamed, model=model, system="Be brief.")
    assert [block.text for block in message.content] == ["hello there"]
    assert (message.role, message.stop_reason) == ("assistant", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (60, 40, 7)
    sent = upstream.journal.bodies()[-1]
    assert [one["content"] for one in sent["messages"]] == [GUARDRAIL, "Be brief.", "Say hello"]
    row = served.row(message.id.removeprefix("msg_"))
    assert (row["endpoint"], row["status"], row["model"]) == ("messages", "ok", "plain")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (100, 40, 7)


@BOTH
def test_a_tool_is_called_under_its_own_name(client: Anthropic, upstream: Upstream, streamed: bool) -> None:
    message = created(client, streamed, model="tools", tools=[TOOL])
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert call.name == "get.weather"
    sent = upstream.journal.bodies()[-1]["tools"][0]["function"]
    assert "." not in sent["name"]
    assert "$schema" not in sent["parameters"]


@BOTH
def test_reasoning_becomes_a_thinking_block(client: Anthropic, streamed: bool) -> None:
    message = created(client, streamed, model="reasoning")
    assert [block.type for block in message.content] == ["thinking", "text"]


@BOTH
def test_the_mock_answers(client: Anthropic, streamed: bool) -> None:
    assert created(client, streamed, model="mock").content[0].text


def test_errors_are_in_the_form_of_the_dialect(served: Proxy, client: Anthropic) -> None:
    with pytest.raises(anthropic_error("NotFoundError")) as unknown:
        created(client, False, model="nothing")
    assert unknown.value.body["error"]["type"] == "not_found_error"
    assert unknown.value.response.headers["request-id"] == unknown.value.body["request_id"]
    with pytest.raises(anthropic_error("RateLimitError")) as busy:
        created(client, False, model="busy")
    assert busy.value.response.headers["retry-after"] == "7"
    with anthropic_of(served, api_key="sk-wrong") as stranger:
        with pytest.raises(anthropic_error("AuthenticationError")) as refused:
            created(stranger, False, model="plain")
        assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_stream_that_fails_ends_with_an_error_event(client: Anthropic) -> None:
    with pytest.raises(anthropic_error("APIStatusError")) as failed:
        created(client, True, model="broken")
    assert failed.value.body["error"]["type"] == "api_error"


def test_tokens_are_counted_without_a_row(served: Proxy, client: Anthropic) -> None:
    before = len(served.rows())
    raw = client.messages.with_raw_response.count_tokens(model="plain", messages=HELLO, system="Be brief.")
    assert raw.parse().input_tokens > 20
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    assert len(served.rows()) == before
    with pytest.raises(anthropic_error("NotFoundError")):
        client.messages.count_tokens(model="nothing", messages=HELLO)


def test_parallel_requests_of_an_agent_share_a_small_budget(served: Proxy, upstream: Upstream) -> None:
    """128 000 tokens would cost 0.77 USD each; the model answers with 100 at most, and that is held."""
    small = served.new_key(max_budget=0.02, budget_duration="day")
    with anthropic_of(served, api_key=small["key"]) as client, ThreadPoolExecutor(4) as pool:

        def one(number: int) -> str:
            messages: Any = [{"role": "user", "content": f"Say hello {number}"}]
            raw = client.messages.with_raw_response.create(
                model="limited", max_tokens=128_000, messages=messages
            )
            return str(raw.headers["x-proxy-max-tokens"])

        assert list(pool.map(one, range(4))) == ["100"] * 4
    for sent in upstream.journal.bodies():
        assert [sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent] == [100]
