"""OpenAI's SDK at /v1/responses, over upstreams that speak the chat dialect and over the built-in mock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.openai_client import openai_error, openai_of
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream

if TYPE_CHECKING:
    from openai import OpenAI

BOTH = pytest.mark.parametrize("streamed", [False, True])
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("plain", "say=hello there;usage=100,7,40"),
            model("tools", "tools"),
            model("reasoning", "reasoning"),
            model("broken", "error_event_after=2;every=0.05", fallbacks=[]),
            model("down", "status=500", fallbacks=["plain"]),
            {"name": "mock", "provider": "mock"},
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def created(client: OpenAI, streamed: bool, **fields: Any) -> Any:
    """The response, whole or as the SDK puts a stream together."""
    request: Any = {"input": "Say hello", **fields}
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        for _ in stream:
            pass
        return stream.get_final_response()


@BOTH
@pytest.mark.parametrize("model", ["plain", "down"])
def test_a_response_is_answered(
    served: Proxy, client: OpenAI, upstream: Upstream, model: str, streamed: bool
) -> None:
    response = created(client, streamed, model=model, instructions="Be brief.")
    assert (response.output_text, response.status) == ("hello there", "completed")
    usage = response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens) == (100, 40, 7)
    sent = upstream.journal.bodies()[-1]
    assert [one["content"] for one in sent["messages"]] == [GUARDRAIL, "Be brief.", "Say hello"]
    row = served.row("req_" + response.id.removeprefix("resp_"))
    assert (row["endpoint"], row["status"], row["model"]) == ("responses", "ok", "plain")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (100, 40, 7)


@BOTH
def test_a_tool_is_called(client: OpenAI, streamed: bool) -> None:
    response = created(client, streamed, model="tools", tools=[TOOL])
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"


@BOTH
def test_sealed_reasoning_comes_back(client: OpenAI, upstream: Upstream, streamed: bool) -> None:
    include = ["reasoning.encrypted_content"]
    response = created(client, streamed, model="reasoning", include=include, store=False)
    reasoning = response.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.encrypted_content.startswith("clp1.")
    again = [*[item.model_dump(exclude_none=True) for item in response.output]]
    created(client, streamed, model="plain", input=[*again, {"role": "user", "content": "Go on"}])
    assert "clp1." not in str(upstream.journal.bodies()[-1])


@BOTH
def test_the_mock_answers(client: OpenAI, streamed: bool) -> None:
    assert created(client, streamed, model="mock").output_text


def test_a_stream_that_fails_ends_with_a_failed_response(client: OpenAI) -> None:
    with client.responses.stream(model="broken", input="hi") as stream:
        last = [event.type for event in stream][-1]
    assert last == "response.failed"


def test_stored_responses_are_refused(client: OpenAI) -> None:
    with pytest.raises(openai_error("BadRequestError")):
        created(client, False, model="plain", previous_response_id="resp_1")
    with pytest.raises(openai_error("NotFoundError")):
        client.responses.retrieve("resp_1")


def test_tokens_are_counted_without_a_row(served: Proxy, client: OpenAI) -> None:
    before = len(served.rows())
    counted = client.responses.input_tokens.count(model="plain", input="Say hello")
    assert counted.input_tokens > 20
    assert len(served.rows()) == before
