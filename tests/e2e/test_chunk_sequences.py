"""Chunks of chats in odd orders, read by both vendors' SDKs over sockets as Messages and as Responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event
from tests.inbound.responses import codex
from tests.inbound.responses.answers import call, chunk, more
from tests.inbound.responses.test_streams import mixed, ordered
from tests.support.anthropic_client import anthropic_error, anthropic_of
from tests.support.dialects.loopback import SSE, Asked, CannedResponse, Server, serving
from tests.support.openai_client import openai_error, openai_of
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

RESPONSES_TOOLS: Any = [codex.FUNCTIONS[0], codex.APPLY_PATCH, codex.TOOL_SEARCH, codex.AGENTS]
TOOLS: Any = [
    {"name": name, "input_schema": {"type": "object", "properties": {}}} for name in ("run", "exec_command")
]
HELLO: Any = [{"role": "user", "content": "Say hello"}]
FINISHED = "data: [DONE]\n\n"


class Script:
    """What the upstream streams next."""

    def __init__(self) -> None:
        self.chunks: Sequence[Event] = ()

    def answer(self, asked: Asked) -> CannedResponse:
        del asked
        bodies = [body for one in self.chunks for body in one.body.split(BETWEEN)]
        return CannedResponse(
            200, [b"".join(b"data: %b\n\n" % body for body in bodies) + FINISHED.encode()], SSE
        )


@pytest.fixture(scope="module")
def script() -> Script:
    return Script()


@pytest.fixture(scope="module")
def upstream_server(script: Script) -> Iterator[Server]:
    with serving(script.answer) as one:
        yield one


@pytest.fixture(scope="module")
def served(upstream_server: Server, module_proxy: ProxyFactory) -> Proxy:
    entry = {
        "name": "odd",
        "provider": "openai_compatible",
        "base_url": f"{upstream_server.url}/v1",
        "api_key": "sk-upstream-secret-key",
        "price": PRICE,
        "fallbacks": [],
    }
    return module_proxy(
        config(entry, cache={"enabled": False}, routing={"retries": 0, "cooldown": {"failures": 1000}})
    )


@pytest.fixture(scope="module")
def claude(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


@pytest.fixture(scope="module")
def gpt(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def message_of(client: Anthropic) -> tuple[Any, list[Any]]:
    """The message that the SDK puts together, and the raw events."""
    with client.messages.stream(model="odd", max_tokens=500, messages=HELLO, tools=TOOLS) as stream:
        events = [event for event in stream if hasattr(event, "index") or event.type.startswith("message")]
        return stream.get_final_message(), events


INTERLEAVED = [
    chunk(content="Both."),
    chunk(tool_calls=[call(0, "a", "run", '{"n":')]),
    chunk(tool_calls=[call(1, "b", "run", '{"n":"2')]),
    chunk(tool_calls=[more(0, '"1"}')]),
    chunk(tool_calls=[more(1, '"}')]),
    chunk(finish="tool_calls"),
]


def test_interleaved_calls_become_blocks_one_after_another(script: Script, claude: Anthropic) -> None:
    script.chunks = INTERLEAVED
    message, events = message_of(claude)
    assert message.stop_reason == "tool_use"
    assert [(block.id, block.input) for block in message.content[1:]] == [
        ("a", {"n": "1"}),
        ("b", {"n": "2"}),
    ]
    starts = [event.index for event in events if event.type == "content_block_start"]
    stops = [event.index for event in events if event.type == "content_block_stop"]
    assert starts == stops == [0, 1, 2]
    with claude.messages.with_streaming_response.create(
        model="odd", max_tokens=500, messages=HELLO, tools=TOOLS, stream=True
    ) as raw:
        deltas = [json.loads(line[6:]) for line in raw.iter_lines() if line.startswith("data: ")]
    open_block = None
    for event in deltas:
        if event["type"] == "content_block_start":
            open_block = event["index"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block


def test_interleaved_thinking_becomes_blocks_in_its_order(script: Script, claude: Anthropic) -> None:
    script.chunks = [
        chunk(reasoning_content="First"),
        chunk(content="One."),
        chunk(reasoning_content="Second"),
        chunk(tool_calls=[call(0, "a", "run", "{}")]),
        chunk(finish="tool_calls"),
    ]
    message, _ = message_of(claude)
    assert [block.type for block in message.content] == ["thinking", "text", "thinking", "tool_use"]
    assert [block.thinking for block in message.content if block.type == "thinking"] == ["First", "Second"]


def test_half_a_call_is_never_done(script: Script, served: Proxy, gpt: OpenAI) -> None:
    script.chunks = [
        chunk(content="Cleaning."),
        chunk(tool_calls=[call(0, "a", "exec_command", '{"cmd":"rm -rf /tmp/x')]),
        chunk(finish="length"),
    ]
    with gpt.responses.stream(model="odd", input="Clean up", tools=RESPONSES_TOOLS) as stream:
        events: list[Any] = list(stream)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    added = [event.item.type for event in events if event.type == "response.output_item.added"]
    done = [event.item.type for event in events if event.type == "response.output_item.done"]
    assert (added, done) == (["message", "function_call"], ["message"])
    assert served.settled_rows()[0]["status"] == "ok"


MANY = settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def ends(gpt: OpenAI, claude: Anthropic) -> list[bool]:
    """Whether the answer is complete, for each SDK that gets a stream; the others get an error."""
    found = []
    with suppress(openai_error("APIError")):
        with gpt.responses.stream(model="odd", input="Say hello", tools=RESPONSES_TOOLS) as stream:
            events: list[Any] = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type in ("response.completed", "response.incomplete", "response.failed")
        found.append(events[-1].type != "response.failed")
    with suppress(anthropic_error("APIError")):
        message, seen = message_of(claude)
        assert message.stop_reason is not None
        found.append(seen[-1].type == "message_stop")
    return found


@MANY
@given(chunks=ordered(("stop", "tool_calls", "length")))
def test_the_sdks_read_streams_in_the_usual_order(
    script: Script, gpt: OpenAI, claude: Anthropic, chunks: list[Event]
) -> None:
    script.chunks = chunks
    assert ends(gpt, claude) == [True, True]


@MANY
@given(chunks=mixed())
def test_the_sdks_agree_on_streams_in_any_order(
    script: Script, gpt: OpenAI, claude: Anthropic, chunks: list[Event]
) -> None:
    script.chunks = chunks
    assert ends(gpt, claude) in ([True, True], [])
