"""The built-in mock behind every dialect: clients can be tried without a provider's key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.anthropic_client import anthropic_of
from tests.support.openai_client import openai_of
from tests.support.proxy_process import Proxy, ProxyFactory, config

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

BOTH = pytest.mark.parametrize("streamed", [False, True])
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
SMALLEST = {"city": "a", "days": 1}
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(
        config(
            {"name": "mock", "provider": "mock", "mock": {"reply": "one two three"}}, cache={"enabled": False}
        )
    )


@pytest.fixture
def openai(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


@pytest.fixture
def anthropic(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


def chatted(client: OpenAI, streamed: bool, **fields: Any) -> Any:
    """The completion, whole or as the SDK puts a stream together."""
    request: Any = {"model": "mock", "messages": HI, **fields}
    if not streamed:
        return client.chat.completions.create(**request)
    with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
        return stream.get_final_completion()


def told(client: Anthropic, streamed: bool, **fields: Any) -> Any:
    """The message, whole or as the SDK puts a stream together."""
    request: Any = {"model": "mock", "max_tokens": 50, "messages": HI, **fields}
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


def responded(client: OpenAI, streamed: bool, **fields: Any) -> Any:
    """The response, whole or as the SDK puts a stream together."""
    request: Any = {"model": "mock", "input": "hi", **fields}
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        return stream.get_final_response()


@BOTH
def test_a_chat_calls_a_forced_function(openai: OpenAI, served: Proxy, streamed: bool) -> None:
    tool = {"type": "function", "function": {"name": "plan", "parameters": SCHEMA, "strict": True}}
    found = chatted(openai, streamed, tools=[tool], tool_choice="required")
    (call,) = found.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("plan", SMALLEST)
    assert found.choices[0].finish_reason == "tool_calls"
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


@BOTH
def test_a_chat_has_structured_output_log_probabilities_and_choices(openai: OpenAI, streamed: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMA, "strict": True}}
    found = chatted(openai, streamed, response_format=form, n=2, logprobs=True, top_logprobs=2)
    assert [json.loads(one.message.content) for one in found.choices] == [SMALLEST] * 2
    for one in found.choices:
        assert "".join(entry.token for entry in one.logprobs.content) == one.message.content


@BOTH
def test_a_chat_ends_at_max_tokens_and_stop(openai: OpenAI, streamed: bool) -> None:
    if not streamed:  # the SDK raises an error for a stream that ends by its length
        short = chatted(openai, streamed, max_tokens=2).choices[0]
        assert (short.message.content, short.finish_reason) == ("one two ", "length")
    stopped = chatted(openai, streamed, stop=["three"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("one two ", "stop")


@BOTH
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "plan"}])
def test_a_message_calls_a_forced_tool(anthropic: Anthropic, streamed: bool, choice: Any) -> None:
    tool = {"name": "plan", "description": "Plans.", "input_schema": SCHEMA}
    found = told(anthropic, streamed, tools=[tool], tool_choice=choice)
    (block,) = found.content
    assert (block.type, block.name, block.input) == ("tool_use", "plan", SMALLEST)
    assert found.stop_reason == "tool_use"


@BOTH
def test_a_message_ends_at_max_tokens_and_stop(anthropic: Anthropic, streamed: bool) -> None:
    short = told(anthropic, streamed, max_tokens=2)
    assert (short.content[0].text, short.stop_reason, short.usage.output_tokens) == (
        "one two ",
        "max_tokens",
        2,
    )
    stopped = told(anthropic, streamed, stop_sequences=["three"])
    assert stopped.content[0].text == "one two "


@BOTH
def test_a_message_has_structured_output(anthropic: Anthropic, streamed: bool) -> None:
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert json.loads(told(anthropic, streamed, output_config=form).content[0].text) == SMALLEST


@BOTH
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "plan"}])
def test_a_response_calls_a_forced_function(openai: OpenAI, streamed: bool, choice: Any) -> None:
    tool = {"type": "function", "name": "plan", "parameters": SCHEMA, "strict": True}
    found = responded(openai, streamed, tools=[tool], tool_choice=choice)
    (call,) = [item for item in found.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("plan", SMALLEST)


@BOTH
def test_a_response_has_structured_output(openai: OpenAI, streamed: bool) -> None:
    form = {"format": {"type": "json_schema", "name": "plan", "schema": SCHEMA, "strict": True}}
    found = responded(openai, streamed, text=form)
    assert json.loads(found.output_text) == SMALLEST
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens


@BOTH
def test_a_response_ends_at_its_limit(openai: OpenAI, streamed: bool) -> None:
    request: Any = {"model": "mock", "input": "hi", "max_output_tokens": 2, "stream": streamed}
    found: Any = openai.responses.create(**request)
    if streamed:
        last = list(found)[-1]
        assert last.type == "response.incomplete"
        found = last.response
    assert (found.output_text, found.status) == ("one two ", "incomplete")
    assert found.incomplete_details.reason == "max_output_tokens"
    assert found.usage.output_tokens == 2
