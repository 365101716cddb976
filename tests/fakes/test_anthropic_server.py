"""The fake Messages API as Anthropic's own SDK sees it: what we test against is not only our idea of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support.dialects.anthropic_server import KEY, Server, serving
from tests.support.processes import LOOPBACK

if TYPE_CHECKING:
    from anthropic import Anthropic

MODEL = "claude-sonnet-4-6"
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def sdk() -> Any:
    """The SDK's module, imported late: that takes two seconds, which test collection need not wait for."""
    import anthropic  # noqa: PLC0415

    return anthropic


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def client(server: Server) -> Iterator[Anthropic]:
    http = httpx2.Client(**LOOPBACK)
    with sdk().Anthropic(
        base_url=server.url, api_key=KEY, http_client=http, max_retries=0, timeout=10
    ) as one:
        yield one


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": text}], **more}


def test_the_sdk_reads_an_answer(client: Anthropic) -> None:
    answer = client.messages.create(**ask("hi", system="Only code."))
    assert answer.content[0].to_dict() == {"type": "text", "text": "You said: hi"}
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 13, 7)


def test_the_sdk_reads_a_stream(client: Anthropic) -> None:
    with client.messages.stream(**ask("think")) as stream:
        answer = stream.get_final_message()
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].to_dict()["signature"] == "c2ln"
    assert answer.usage.output_tokens == 7


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdk_completes_a_tool_conversation(client: Anthropic, streamed: bool) -> None:
    asked = ask("weather twice", tools=[WEATHER])
    if streamed:
        with client.messages.stream(**asked) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**asked)
    _, *uses = answer.content
    assert [use.to_dict()["input"] for use in uses] == [{"city": "Oslo"}, {"city": "Bergen"}]
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": use.to_dict()["id"], "content": "rain"} for use in uses
    ]
    talk: list[Any] = [
        *asked["messages"],
        {"role": "assistant", "content": [block.to_dict() for block in answer.content]},
        {"role": "user", "content": results},
    ]
    assert client.messages.create(**{**asked, "messages": talk}).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("overflow", "BadRequestError"),
        ("limited", "RateLimitError"),
        ("overloaded", "InternalServerError"),
        ("unpaid", "AuthenticationError"),
    ],
)
def test_the_sdk_raises_its_documented_errors(client: Anthropic, text: str, error: str) -> None:
    with pytest.raises(getattr(sdk(), error)):
        client.messages.create(**ask(text))


def test_the_sdk_raises_an_error_event(client: Anthropic) -> None:
    with pytest.raises(sdk().APIStatusError), client.messages.stream(**ask("break")) as stream:
        stream.get_final_message()


@pytest.mark.parametrize(
    "wrong",
    [
        {"surprise": 1},
        {"max_tokens": 0},
        {"temperature": 0.5},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"tool_choice": {"type": "any"}},
        {"tools": [WEATHER], "tool_choice": {"type": "any"}, "thinking": {"type": "adaptive"}},
        {"output_config": {"effort": "xhigh"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"messages": [{"role": "assistant", "content": "hi"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
    ],
)
def test_the_server_refuses_the_requests_anthropic_refuses(client: Anthropic, wrong: dict[str, Any]) -> None:
    with pytest.raises(sdk().BadRequestError):
        client.messages.create(**{**ask("hi"), "extra_body": wrong})
