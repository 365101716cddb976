"""OpenAI's SDK at /v1/responses over every dialect: structured output, tools of agents, sealed reasoning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from pydantic import BaseModel

from tests.support.dialects import cohere_server, native_server
from tests.support.dialects.loopback import Server, serving
from tests.support.openai_client import openai_of
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE, Upstream

if TYPE_CHECKING:
    from openai import OpenAI

BOTH = pytest.mark.parametrize("streamed", [False, True])
KEY = "sk-upstream-secret-key"
SAID = '{"city":"Oslo","degrees":4}'


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture(scope="module")
def cohere() -> Iterator[Server]:
    with serving(cohere_server.answer) as one:
        yield one
        assert not one.refused


@pytest.fixture(scope="module")
def native() -> Iterator[Server]:
    with native_server.native_server() as one:
        yield one


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, cohere: Server, native: Server, module_proxy: ProxyFactory) -> Proxy:
    def entry(name: str, provider: str, url: str, key: str, model: str) -> dict[str, Any]:
        return {
            "name": name,
            "provider": provider,
            "base_url": url,
            "api_key": key,
            "model": model,
            "price": PRICE,
            "fallbacks": [],
        }

    model = upstream_process.model
    return module_proxy(
        config(
            model("plain", "say=hello there"),
            model("chat", f"say={quote(SAID)}"),
            model("search", 'call=tool_search{"query":"maps","limit":3}'),
            model(
                "shell",
                f"call=local_shell{quote(json.dumps({'command': ['ls', '-l'], 'env': {}}), safe='{}:')}",
            ),
            model("clock", 'call=now{"zone":"UTC"}'),
            entry("command", "cohere", f"{cohere.url}/v2", cohere_server.KEY, "command-a"),
            entry("claude", "anthropic", f"{native.url}/v1", KEY, "claude-opus-5-5"),
            entry("haiku", "anthropic", f"{native.url}/v1", KEY, "claude-3-5-haiku-latest"),
            entry("gpt", "openai", f"{native.url}/v1", KEY, "gpt-5.5"),
            {"name": "mock", "provider": "mock"},
        )
    )


@pytest.fixture
def client(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def created(client: OpenAI, streamed: bool, **fields: Any) -> Any:
    """The response, whole or as the SDK puts a stream together."""
    request: Any = {"model": "plain", "input": "Say hello", **fields}
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        *_, last = list(stream)
        return last.response


def again(response: Any) -> list[dict[str, Any]]:
    """The items as a client repeats them."""
    return [item.model_dump(exclude_none=True) for item in response.output]


# --- answers -----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("model", ["command", "claude", "gpt"])
def test_every_dialect_answers(served: Proxy, client: OpenAI, model: str, streamed: bool) -> None:
    response = created(client, streamed, model=model, input="hi", instructions="Be brief.")
    assert (response.output_text, response.status) == ("You said: hi", "completed")
    row = served.settled_rows()[0]
    assert (row["endpoint"], row["model"], row["status"], row["basis"]) == ("responses", model, "ok", "exact")
    usage = response.usage
    assert (
        (usage.input_tokens, usage.output_tokens)
        == (row["prompt_tokens"], row["completion_tokens"])
        == (20, 7)
    )


@pytest.mark.parametrize("model", ["chat", "command", "claude", "gpt", "mock"])
def test_structured_output_is_parsed(client: OpenAI, model: str) -> None:
    response = client.responses.parse(model=model, input=f"say {SAID}", text_format=Weather)
    with client.responses.stream(model=model, input=f"say {SAID}", text_format=Weather) as stream:
        streamed = stream.get_final_response()
    for found in (response.output_parsed, streamed.output_parsed):
        assert isinstance(found, Weather)
        assert model == "mock" or found == Weather(city="Oslo", degrees=4)


def test_a_schema_reaches_every_dialect(
    client: OpenAI, upstream: Upstream, cohere: Server, native: Server
) -> None:
    for model in ("chat", "command", "claude", "gpt"):
        client.responses.parse(model=model, input=f"say {SAID}", text_format=Weather)
    schema = native.body["text"]["format"]["schema"]
    assert native.body["text"]["format"]["type"] == "json_schema"
    assert upstream.journal.bodies()[-1]["response_format"]["json_schema"]["schema"] == schema
    assert cohere.body["response_format"]["json_schema"]["properties"].keys() == {"city", "degrees"}
    claude = next(one for one in reversed(native.asked) if one.path.startswith("/v1/messages"))
    assert claude.body["output_config"]["format"]["schema"]["properties"].keys() == {"city", "degrees"}


# --- input and options -------------------------------------------------------------------------------------------


@BOTH
def test_every_form_of_input_is_read(client: OpenAI, upstream: Upstream, streamed: bool) -> None:
    untyped: Any = [
        {"role": "developer", "content": "Use tabs."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": [{"type": "input_text", "text": "Three"}]},
    ]
    created(client, streamed, input="Just text")
    created(client, streamed, input=untyped, instructions="Be brief.")
    text, items = (body["messages"] for body in upstream.journal.bodies()[-2:])
    assert [one["content"] for one in text] == [GUARDRAIL, "Just text"]
    assert [one["content"] for one in items] == [GUARDRAIL, "Be brief.", "Use tabs.", "One", "Two", "Three"]
    assert [one["role"] for one in items[-3:]] == ["user", "assistant", "user"]


def test_effort_and_verbosity_are_left_out_for_models_without_them(
    client: OpenAI, cohere: Server, native: Server
) -> None:
    native.asked.clear()
    options: Any = {
        "reasoning": {"effort": "high", "summary": "auto"},
        "text": {"verbosity": "low"},
        "input": "hi",
    }
    for model, dropped in (
        ("haiku", "reasoning_effort"),
        ("command", ""),
        ("claude", ""),
        ("gpt", ""),
        ("mock", ""),
    ):
        raw = client.responses.with_raw_response.create(model=model, **options)
        assert raw.parse().status == "completed"
        assert dropped in raw.headers.get("x-proxy-dropped-params", "")
    haiku, claude = (one.body for one in native.asked if one.path.startswith("/v1/messages"))
    assert not {"thinking", "output_config"} & haiku.keys()
    assert claude["output_config"] == {"effort": "high"}
    assert "verbosity" not in str(claude)
    assert cohere.body["thinking"]["type"] == "enabled"
    assert native.body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert native.body["text"]["verbosity"] == "low"


# --- tools of agents ---------------------------------------------------------------------------------------------

NOW: Any = {
    "type": "function",
    "name": "now",
    "strict": False,
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
}
TOOL_SEARCH: Any = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools",
    "parameters": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    },
}


def test_tools_that_an_item_offers_are_called(client: OpenAI, upstream: Upstream) -> None:
    offered: Any = {
        "type": "additional_tools",
        "role": "developer",
        "tools": [{"type": "namespace", "name": "clock", "description": "Time", "tools": [NOW]}],
    }
    items: Any = [offered, {"role": "user", "content": "What time is it?"}]
    for streamed in (False, True):
        first = created(client, streamed, model="clock", input=items)
        call = first.output[-1].model_dump(exclude_none=True)
        named = (call["type"], call["namespace"], call["name"], json.loads(call["arguments"]))
        assert named == ("function_call", "clock", "now", {"zone": "UTC"})
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "noon-42"}
        second = created(client, streamed, model="clock", input=[*items, *again(first), output])
        assert "noon-42" in second.output_text
        assert upstream.journal.bodies()[-1]["messages"][-1]["content"] == "noon-42"


@BOTH
def test_a_search_for_tools_is_called_and_what_it_finds_is_offered(
    client: OpenAI, upstream: Upstream, streamed: bool
) -> None:
    items: Any = [{"role": "user", "content": "Find maps"}]
    first = created(client, streamed, model="search", input=items, tools=[TOOL_SEARCH])
    call = first.output[-1].model_dump(exclude_none=True)
    assert (call["type"], call["execution"]) == ("tool_search_call", "client")
    assert call["arguments"] == {"query": "maps", "limit": 3}
    output = {
        "type": "tool_search_output",
        "call_id": call["call_id"],
        "execution": "client",
        "status": "completed",
        "tools": [NOW],
    }
    created(client, streamed, model="plain", input=[*items, *again(first), output], tools=[TOOL_SEARCH])
    sent = upstream.journal.bodies()[-1]
    assert [one["function"]["name"] for one in sent["tools"]] == ["tool_search", "now"]
    assert "now" in sent["messages"][-1]["content"]


@BOTH
def test_the_local_shell_is_called(client: OpenAI, upstream: Upstream, streamed: bool) -> None:
    items: Any = [{"role": "user", "content": "List the files"}]
    shell: Any = [{"type": "local_shell"}]
    first = created(client, streamed, model="shell", input=items, tools=shell)
    call = first.output[-1].model_dump(exclude_none=True)
    assert call["type"] == "local_shell_call"
    assert (call["action"]["type"], call["action"]["command"]) == ("exec", ["ls", "-l"])
    output = {
        "type": "local_shell_call_output",
        "id": call["call_id"],
        "call_id": call["call_id"],
        "output": "x-42",
    }
    created(client, streamed, model="plain", input=[*items, *again(first), output], tools=shell)
    result = upstream.journal.bodies()[-1]["messages"][-1]
    assert (result["role"], result["tool_call_id"]) == ("tool", call["call_id"])
    assert "x-42" in result["content"]


# --- sealed reasoning --------------------------------------------------------------------------------------------


@BOTH
def test_reasoning_comes_back_with_its_signature_unless_it_was_changed(
    client: OpenAI, native: Server, streamed: bool
) -> None:
    weather: Any = {**NOW, "name": "get_weather"}
    options: Any = {
        "model": "claude",
        "include": ["reasoning.encrypted_content"],
        "tools": [weather],
        "reasoning": {"effort": "high"},
    }
    asked: Any = [{"role": "user", "content": "think"}]
    first = created(client, streamed, input=asked, **options)
    items = again(first)
    calls = [item for item in items if item["type"] == "function_call"]
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"} for call in calls
    ]
    sealed = [item for item in items if item["type"] == "reasoning"]
    assert all(item["encrypted_content"].startswith("clp1.") for item in sealed)

    def signatures(items: list[dict[str, Any]]) -> list[str]:
        created(client, streamed, input=[*asked, *items, *outputs], **options)
        turns = [one for one in native.body["messages"] if one["role"] == "assistant"]
        return [
            block.get("signature", "") for turn in turns for block in turn["content"] if "thinking" in block
        ]

    assert calls
    expected = ["c2lnMQ==", "c2lnMg=="] if streamed else ["c2ln"]
    assert signatures(items) == expected
    for item in sealed:
        text = item["encrypted_content"]
        item["encrypted_content"] = text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]
    assert signatures(items) == []
    assert "clp1." not in str(native.body)
