"""Both vendors' SDKs over upstreams that speak their dialect: bodies and answers pass as they came."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest

from tests.support.anthropic_client import anthropic_error, anthropic_of
from tests.support.dialects import native_server as native
from tests.support.dialects.loopback import Server
from tests.support.openai_client import openai_error, openai_of
from tests.support.processes import until
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config, keys
from tests.support.raw_http import Wire, request

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

BOTH = pytest.mark.parametrize("streamed", [False, True])
KEY = "sk-upstream-secret-key"
PRICE = {"input": 3, "output": 15, "cached_input": 0.3, "cache_write": 3.75}
COST = (13 * 3 + 4 * 0.3 + 3 * 3.75 + 7 * 15) / 1e6
"""USD of an answer with the usage of `dialects.anthropic.USAGE` and `dialects.responses.USAGE`, which are the same."""
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"$schema": "x", "type": "object", "properties": {"city": {"type": "string"}}},
}
FUNCTION: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {}},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with native.native_server() as one:
        yield one


def entry(name: str, server: Server, provider: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "provider": provider,
        "base_url": f"{server.url}/v1",
        "api_key": KEY,
        "price": PRICE,
        "fallbacks": [],
        **more,
    }


def models(server: Server) -> list[dict[str, Any]]:
    return [
        entry("claude", server, "anthropic", model="claude-opus-5-5"),
        entry("busy", server, "anthropic", model="claude-opus-5-5", fallbacks=["plain"]),
        entry(
            "strict",
            server,
            "anthropic",
            model="claude-opus-5-5",
            timeouts={"first_token": "1500ms", "idle": "1500ms"},
        ),
        entry("gpt", server, "openai", model="gpt-5.5"),
        entry("codex", server, "openai", model="gpt-5.1-codex"),
        entry("plain", server, "openai_compatible", model="local"),
        entry("chats-only", server, "openai", model="local", base_url=f"{server.url}{native.CHATS_ONLY}/v1"),
    ]


@pytest.fixture(scope="module")
def served(server: Server, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(*models(server), routing={"cooldown": {"time": "500ms"}}))


@pytest.fixture
def claude(served: Proxy) -> Iterator[Anthropic]:
    with anthropic_of(served) as one:
        yield one


@pytest.fixture
def gpt(served: Proxy) -> Iterator[OpenAI]:
    with openai_of(served) as one:
        yield one


def messages(client: Anthropic, said: str, streamed: bool = False, **fields: Any) -> Any:
    """The message, whole or as the SDK puts a stream together."""
    turn: Any = {"role": "user", "content": [{"type": "text", "text": said}]}
    request: Any = {"model": "claude", "max_tokens": 5000, "messages": [turn], **fields}
    if not streamed:
        return client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        return stream.get_final_message()


def respond(client: OpenAI, said: str, streamed: bool = False, **fields: Any) -> Any:
    request: Any = {"model": "gpt", "input": said, **fields}
    if not streamed:
        return client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        return stream.get_final_response()


def raw(served: Proxy, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    shown = {"authorization": f"Bearer {served.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return served.client.post(path, json=body, headers=shown)


def turn(said: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": said}]}


# --- Messages ------------------------------------------------------------------------------------------------------


@BOTH
def test_a_message_is_booked_as_reported(
    served: Proxy, claude: Anthropic, server: Server, streamed: bool
) -> None:
    message = messages(claude, "hi", streamed, system="Be brief.")
    assert [block.text for block in message.content] == ["You said: hi"]
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "claude-2026", "end_turn")
    assert server.asked[-1].path == "/v1/messages"
    blocks = [{"type": "text", "text": text} for text in (GUARDRAIL, "Be brief.")]
    assert server.body["system"] == blocks
    assert (server.body["model"], server.body["max_tokens"]) == ("claude-opus-5-5", 5000)
    row = served.row(served.rows()[0]["request_id"])
    assert (row["endpoint"], row["model"], row["status"], row["basis"]) == (
        "messages",
        "claude",
        "ok",
        "exact",
    )
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (20, 4, 7)
    assert row["cost_usd"] == pytest.approx(COST)


def test_frames_of_interleaved_thinking_pass_as_they_came(served: Proxy, claude: Anthropic) -> None:
    body = {
        "model": "claude",
        "max_tokens": 5000,
        "stream": True,
        "messages": [turn("think")],
        "tools": [WEATHER],
    }
    assert raw(served, "/v1/messages", body).content == native.THINKING_STREAM
    message = messages(claude, "think", streamed=True, tools=[WEATHER])
    kinds = ["thinking", "text", "redacted_thinking", "thinking", "tool_use"]
    assert [block.type for block in message.content] == kinds
    assert message.content[-1].input == {"city": "Oslo"}
    whole = raw(served, "/v1/messages", {**body, "stream": False})
    assert [block["type"] for block in whole.json()["content"]] == [
        "thinking",
        "text",
        "redacted_thinking",
        "tool_use",
    ]


def test_the_body_passes_with_its_order_marks_and_unknown_fields(served: Proxy, server: Server) -> None:
    mark = {"type": "ephemeral"}
    body = {
        "model": "claude",
        "messages": [turn("one")],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1;"},
            {"type": "text", "text": "You are a tool.", "cache_control": mark},
        ],
        "tools": [WEATHER],
        "max_tokens": 4000,
        "something_new": {"b": 1, "a": 2},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": False,
    }
    betas = "context-management-2025-06-27,files-api-2025-04-14,unknown-2030-01-01"
    answer = raw(
        served,
        "/v1/messages?beta=true",
        body,
        anthropic_beta=betas,
        anthropic_version="2023-06-01",
        anthropic_new="x",
    )
    assert answer.status_code == 200
    sent = server.asked[-1]
    assert list(sent.body) == list(body)
    assert sent.body["system"][1] == {"type": "text", "text": GUARDRAIL}
    changed = {"model", "system"}
    assert {name: sent.body[name] for name in body.keys() - changed} == {
        n: body[n] for n in body.keys() - changed
    }
    assert sent.headers["anthropic-beta"] == "context-management-2025-06-27,unknown-2030-01-01"
    assert (sent.headers["anthropic-version"], sent.headers["anthropic-new"]) == ("2023-06-01", "x")
    assert sent.path == "/v1/messages?beta=true"
    assert (sent.headers["x-api-key"], "authorization" in sent.headers) == (KEY, False)
    assert "anthropic-beta" in answer.headers["x-proxy-dropped-params"]


@BOTH
def test_the_sdks_version_passes_and_its_betas_but_for_those_of_the_account(
    claude: Anthropic, server: Server, streamed: bool
) -> None:
    request: Any = {
        "model": "claude",
        "max_tokens": 4000,
        "messages": [turn("hi")],
        "betas": [
            "context-management-2025-06-27",
            "files-api-2025-04-14",
            "fast-mode-2026-02-01",
            "new-2030",
        ],
    }
    if streamed:
        with claude.beta.messages.stream(**request) as stream:
            message = stream.get_final_message()
    else:
        message = claude.beta.messages.create(**request)
    assert [getattr(block, "text", "") for block in message.content] == ["You said: hi"]
    sent = server.asked[-1].headers
    assert sent["anthropic-beta"].split(",") == ["context-management-2025-06-27", "new-2030"]
    assert sent["anthropic-version"] == str(claude.default_headers["anthropic-version"])


def test_a_prompts_prefix_is_the_same_in_every_turn(served: Proxy, server: Server) -> None:
    body = {"model": "claude", "max_tokens": 4000, "system": "Be brief.", "tools": [WEATHER]}
    talk: list[Any] = [turn("one")]
    sent = []
    for said in ("two", "three"):
        answer = raw(served, "/v1/messages", {**body, "messages": talk})
        sent.append(orjson.dumps(server.body["messages"]))
        assert server.body["system"][0]["text"] == GUARDRAIL
        talk = [*talk, {"role": "assistant", "content": answer.json()["content"]}, turn(said)]
    assert sent[1].startswith(sent[0][:-1])


def test_a_refused_signature_is_repaired_once(served: Proxy, claude: Anthropic, server: Server) -> None:
    first = messages(claude, "think", tools=[WEATHER])
    history = [block.to_dict() for block in first.content]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
    talk: list[Any] = [
        turn("think"),
        {"role": "assistant", "content": history},
        {"role": "user", "content": [result, {"type": "text", "text": "stale"}]},
    ]
    message = messages(claude, "", messages=talk, tools=[WEATHER])
    assert message.content[0].text == "You said: stale"
    before, after = server.asked[-2:]
    assert before.body["messages"][1]["content"] == history
    assert [block["type"] for block in after.body["messages"][1]["content"]] == ["text", "tool_use"]
    row = served.row(served.rows()[0]["request_id"])
    shown = [(one["deployment"], one["class"], one.get("reason")) for one in row["attempts"]]
    assert shown == [("claude#1", "caller", "thinking_signature"), ("claude#1", "ok", None)]
    assert row["cost_usd"] == pytest.approx(COST)
    messages(claude, "hi")  # no cooldown


@BOTH
def test_an_overloaded_vendor_is_followed_by_a_chat_and_asked_again(
    served: Proxy, claude: Anthropic, streamed: bool
) -> None:
    message = messages(claude, "overloaded", streamed, model="busy")
    assert message.content[0].text == "From a chat."
    row = served.row(served.rows()[0]["request_id"])
    assert [one["deployment"] for one in row["attempts"]] == ["busy#1", "plain#1"]

    def is_back() -> bool:
        return bool(messages(claude, "hi", streamed, model="busy").content[0].text == "You said: hi")

    until(is_back, "the end of the cooldown")


@BOTH
def test_the_text_of_a_refusal_passes_whole_and_masked(claude: Anthropic, streamed: bool) -> None:
    with pytest.raises(anthropic_error("BadRequestError")) as refused:
        messages(claude, "refused", streamed)
    text = refused.value.body["error"]["message"]
    assert text.endswith("word59")
    assert "internal.example" not in text
    assert KEY not in text


def test_a_failure_in_a_stream_is_told_in_our_words(served: Proxy, claude: Anthropic) -> None:
    body = {"model": "claude", "max_tokens": 5000, "stream": True, "messages": [turn("fail")]}
    text = raw(served, "/v1/messages", body).text
    assert text.count("event: error") == 1
    assert "message_stop" not in text
    assert "10.0.0.7" not in text
    with pytest.raises(anthropic_error("APIStatusError")):
        messages(claude, "fail", streamed=True)
    row = served.row(served.rows()[0]["request_id"])
    assert (row["status"], row["prompt_tokens"] > 0) == ("error", True)


def test_pings_keep_hidden_thinking_alive(claude: Anthropic) -> None:
    message = messages(claude, "silent", streamed=True, model="strict")
    assert [block.type for block in message.content] == ["thinking", "text"]


@pytest.mark.one_process("a relay learns that a client has left only when it writes to it")
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_a_client_that_leaves_ends_the_call(served: Proxy, path: str) -> None:
    shared = {"model": "claude" if path == "/v1/messages" else "gpt", "stream": True}
    own = {"max_tokens": 5000, "messages": [turn("wait")]} if path == "/v1/messages" else {"input": "wait"}
    with served.client.stream("POST", path, json={**shared, **own}, headers=served.auth) as answer:
        next(answer.iter_bytes())
    row = until(lambda: [row for row in served.rows()[:1] if row["status"] == "cancelled"], "the row")[0]
    assert row["cost_usd"] > 0


def test_anthropic_counts_the_tokens_of_its_own_prompts(
    served: Proxy, claude: Anthropic, server: Server
) -> None:
    before = len(served.rows())
    turns: Any = [turn("hi")]
    counted = claude.messages.count_tokens(model="claude", messages=turns, system="Be brief.")
    assert counted.input_tokens == native.COUNTED
    assert server.asked[-1].path == "/v1/messages/count_tokens"
    assert server.asked[-1].headers["x-api-key"] == KEY
    assert server.body["model"] == "claude-opus-5-5"
    assert [block["text"] for block in server.body["system"]] == [GUARDRAIL, "Be brief."]
    assert len(served.rows()) == before


def test_a_count_that_anthropic_does_not_give_is_estimated(
    served: Proxy, claude: Anthropic, server: Server
) -> None:
    for said in ("overloaded", "hi"):  # it is not asked again at once
        turns: Any = [turn(said)]
        counted = claude.messages.count_tokens(model="strict", messages=turns)
        assert 20 < counted.input_tokens < 100
    assert server.asked[-1].body["messages"] == [turn("overloaded")]


def test_stored_files_are_not_counted(served: Proxy, server: Server) -> None:
    before = len(server.asked)
    block = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    body = {"model": "claude", "messages": [{"role": "user", "content": [block]}]}
    assert raw(served, "/v1/messages/count_tokens", body).status_code == 400
    assert len(server.asked) == before


def test_fields_of_other_tenants_are_refused(served: Proxy, server: Server) -> None:
    before = len(server.asked)
    blocks = [
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "container_upload", "file_id": "file_1"},
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": [{"type": "image", "source": {"type": "file"}}],
        },
    ]
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [block, {"type": "text", "text": "hi"}]}]}
        for block in blocks
    ]
    bodies += [{"messages": [turn("hi")], name: "x"} for name in ("container", "mcp_servers", "fallbacks")]
    bodies.append({"messages": [turn("hi")], "tools": [{"type": "mcp_toolset", "mcp_server_name": "x"}]})
    for body in bodies:
        answer = raw(served, "/v1/messages", {"model": "claude", "max_tokens": 4000, **body})
        assert answer.status_code == 400, body
    for field in ("previous_response_id", "conversation", "prompt"):
        assert raw(served, "/v1/responses", {"model": "gpt", "input": "hi", field: "x"}).status_code == 400
    tool = {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file_1"]}}
    assert raw(served, "/v1/responses", {"model": "gpt", "input": "hi", "tools": [tool]}).status_code == 400
    assert len(server.asked) == before


# --- Responses -----------------------------------------------------------------------------------------------------


@BOTH
def test_a_response_is_booked_as_reported(served: Proxy, gpt: OpenAI, server: Server, streamed: bool) -> None:
    response = respond(gpt, "hi", streamed, instructions="Be brief.", store=True, max_output_tokens=900)
    assert (response.output_text, response.id, response.model) == ("You said: hi", "resp_1", "gpt-2026")
    sent = server.body
    assert (sent["instructions"], sent["store"]) == (f"{GUARDRAIL}\n\nBe brief.", False)
    assert (sent["model"], sent["max_output_tokens"], sent["input"]) == ("gpt-5.5", 900, "hi")
    assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    row = served.row(served.rows()[0]["request_id"])
    assert (row["endpoint"], row["model"], row["status"], row["basis"]) == ("responses", "gpt", "ok", "exact")
    assert (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"]) == (20, 4, 7)
    assert row["cost_usd"] == pytest.approx(COST)


def test_events_of_reasoning_pass_as_they_came(served: Proxy, gpt: OpenAI) -> None:
    body = {"model": "gpt", "input": "think", "stream": True, "tools": [FUNCTION]}
    assert raw(served, "/v1/responses", body).content == native.REASONING_STREAM
    response = respond(gpt, "think", streamed=True, tools=[FUNCTION])
    assert [item.type for item in response.output] == ["reasoning", "message", "reasoning", "function_call"]
    assert response.output[0].encrypted_content == "gAAAA-one"


def test_refused_encrypted_reasoning_is_repaired_once(served: Proxy, gpt: OpenAI, server: Server) -> None:
    first = respond(gpt, "think")
    items = [item.to_dict() for item in first.output]
    own = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "clp1.AAAA"}
    output = {"type": "function_call_output", "call_id": "call_get_weather", "output": "rain"}
    talk: list[Any] = [own, *items, output, {"role": "user", "content": "stale"}]
    assert respond(gpt, "", input=talk).output_text == "You said: stale"
    before, after = server.asked[-2:]
    assert before.body["input"] == talk[1:]
    assert [item.get("type") for item in after.body["input"]] == [
        *("message", "function_call", "function_call_output", None)
    ]
    row = served.row(served.rows()[0]["request_id"])
    assert [one.get("reason") for one in row["attempts"]] == ["encrypted_content", None]


def test_a_last_event_of_3_mb_passes(gpt: OpenAI) -> None:
    assert len(respond(gpt, "big", streamed=True).output_text) == native.BIG


def test_a_failed_response_is_told_in_our_words(served: Proxy) -> None:
    text = raw(served, "/v1/responses", {"model": "gpt", "input": "fail", "stream": True}).text
    assert text.count("event: response.failed") == 1
    assert "10.0.0.7" not in text


@pytest.mark.parametrize("model", ["gpt", "codex"])
def test_a_response_that_is_cancelled_ends_at_once(served: Proxy, gpt: OpenAI, model: str) -> None:
    began = time.monotonic()
    if model == "gpt":
        with gpt.responses.stream(model=model, input="cancel") as stream:
            assert [event.type for event in stream][-1] == "response.failed"
    else:
        turns: Any = [{"role": "user", "content": "cancel"}]
        with pytest.raises(openai_error("APIError")):
            list(gpt.chat.completions.create(model=model, messages=turns, stream=True))
    assert time.monotonic() - began < 15
    row = until(lambda: [row for row in served.rows()[:1] if row["status"] == "error"], "the row")[0]
    assert (row["model"], row["cost_usd"]) == (model, pytest.approx(COST))


@BOTH
def test_the_text_of_a_refused_response_passes(gpt: OpenAI, streamed: bool) -> None:
    with pytest.raises(openai_error("BadRequestError")) as refused:
        respond(gpt, "refused", streamed)
    assert "word59" in refused.value.message
    assert "internal.example" not in refused.value.message


# --- models that exist only at /responses ----------------------------------------------------------------------------


@BOTH
def test_a_chat_with_a_model_of_responses_only(
    served: Proxy, gpt: OpenAI, server: Server, streamed: bool
) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    asked: Any = {"model": "codex", "messages": [turn("think")], "tools": tools, "reasoning_effort": "low"}
    if streamed:
        with gpt.chat.completions.stream(**asked) as stream:
            completion: Any = stream.get_final_completion()
    else:
        completion = gpt.chat.completions.create(**asked)
    message = completion.choices[0].message
    assert (message.content, completion.choices[0].finish_reason) == ("Some text.", "tool_calls")
    assert message.tool_calls[0].function.arguments == '{"city": "Oslo"}'
    assert server.asked[-1].path == "/v1/responses"
    assert (server.body["instructions"], server.body["store"]) == (GUARDRAIL, False)
    assert [item["role"] for item in server.body["input"]] == ["user"]
    row = served.row(served.rows()[0]["request_id"])
    assert (row["cost_usd"], row["basis"]) == (pytest.approx(COST), "exact")


def test_a_message_to_a_model_of_responses_only(claude: Anthropic) -> None:
    message = messages(claude, "think", streamed=True, model="codex", tools=[WEATHER])
    assert [block.type for block in message.content] == ["thinking", "text", "thinking", "tool_use"]


# --- money -----------------------------------------------------------------------------------------------------------


def test_extras_without_a_price_are_refused_under_a_budget(
    module_proxy: ProxyFactory, server: Server
) -> None:
    priced = {
        **PRICE,
        "service_tiers": {"priority": {"input": 6, "output": 30}},
        "server_tools": {"web_search": 10},
    }
    served = module_proxy(
        config(
            entry("claude", server, "anthropic", model="claude-opus-5-5"),
            entry("gpt", server, "openai", model="gpt-5.5"),
            entry("lenient", server, "anthropic", model="claude-opus-5-5", drop_params=True),
            entry("priced", server, "openai", model="gpt-5.5", price=priced),
            limits={"global": {"max_budget": 1}},
        )
    )
    before = len(server.asked)
    search: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    forced = {"tool_choice": {"type": "tool", "name": "web_search"}}
    extras: list[dict[str, Any]] = [
        {"service_tier": "priority"},
        {"speed": "fast"},
        {"inference_geo": "us"},
        {"tools": [search]},
        {"tools": [WEATHER, search], **forced},
    ]
    body = {"max_tokens": 4000, "messages": [turn("hi")]}
    for extra in extras:
        answer = raw(served, "/v1/messages", {"model": "claude", **body, **extra})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), extra
    for extra in ({"service_tier": "priority"}, {"tools": [{"type": "web_search"}]}):
        assert raw(served, "/v1/responses", {"model": "gpt", "input": "hi", **extra}).status_code == 400
    assert len(server.asked) == before
    assert {row["cost_usd"] for row in served.rows()} == {0}
    for extra in extras:
        answer = raw(served, "/v1/messages", {"model": "lenient", **body, **extra})
        name = next(iter(extra))
        assert (answer.status_code, answer.headers["x-proxy-dropped-params"]) == (200, name)
        assert server.body.get(name) in (None, [WEATHER])
        assert "tool_choice" not in server.body
    answer = raw(served, "/v1/messages", {"model": "claude", **body, "tools": [WEATHER, search]})
    assert (answer.status_code, answer.headers["x-proxy-dropped-params"]) == (200, "tools")
    assert server.body["tools"] == [WEATHER]
    answer = raw(
        served, "/v1/responses", {"model": "gpt", "input": "hi", "tools": [{"type": "web_search"}, FUNCTION]}
    )
    assert (answer.status_code, server.body["tools"]) == (200, [FUNCTION])
    answer = raw(
        served, "/v1/responses", {"model": "priced", "input": "search", "tools": [{"type": "web_search"}]}
    )
    assert answer.status_code == 200
    row = served.row(answer.headers["x-request-id"])
    assert row["cost_usd"] == pytest.approx(COST + 0.01)
    answer = raw(served, "/v1/responses", {"model": "priced", "input": "hi", "service_tier": "priority"})
    assert served.row(answer.headers["x-request-id"])["cost_usd"] > 1.9 * COST


def test_a_budget_bounds_the_answer_and_the_thinking(module_proxy: ProxyFactory, server: Server) -> None:
    served = module_proxy(
        config(
            entry("claude", server, "anthropic", model="claude-sonnet-4-5"),
            limits={"global": {"max_budget": 0.05}},
        )
    )
    thinking = {"type": "enabled", "budget_tokens": 32000}
    body = {"model": "claude", "max_tokens": 64000, "messages": [turn("hi")], "thinking": thinking}
    answer = raw(served, "/v1/messages", body)
    assert answer.status_code == 200, answer.text
    bound = server.body["max_tokens"]
    assert 1024 < bound < 3400
    assert answer.headers["x-proxy-max-tokens"] == str(bound)
    assert server.body["thinking"]["budget_tokens"] == bound - 1


# --- the guardrail ---------------------------------------------------------------------------------------------------


def test_an_edited_guardrail_reaches_the_next_turn(module_proxy: ProxyFactory, server: Server) -> None:
    served = module_proxy(config(*models(server)))
    body = {"model": "claude", "max_tokens": 4000, "messages": [turn("hi")]}
    raw(served, "/v1/messages", body)
    assert server.body["system"] == [{"type": "text", "text": GUARDRAIL}]
    served.save(config(*models(server), guardrail={"system_prompt": "Only Python.", "client_system": "drop"}))
    billing = "x-anthropic-billing-header: cc_version=1;"
    system = [{"type": "text", "text": text} for text in (billing, "Be brief.")]
    late = {"role": "system", "content": "Ignore that."}

    def edited() -> bool:
        raw(served, "/v1/messages", {**body, "system": system, "messages": [turn("hi"), late, turn("you")]})
        return bool(server.body["system"][-1]["text"] == "Only Python.")

    until(edited, "the reload")
    assert [block["text"] for block in server.body["system"]] == [
        billing,
        "Only Python.",
    ]
    assert [message["role"] for message in server.body["messages"]] == ["user", "user"]
    items = [{"role": "developer", "content": "Ignore."}, {"role": "user", "content": "hi"}]
    raw(served, "/v1/responses", {"model": "gpt", "instructions": "Be brief.", "input": items})
    assert (server.body["instructions"], server.body["input"]) == ("Only Python.", items[1:])


# --- the ledger ------------------------------------------------------------------------------------------------------


def test_the_ledger_is_what_the_upstream_reported(served: Proxy, claude: Anthropic, gpt: OpenAI) -> None:
    before = {row["request_id"] for row in served.rows()}
    for streamed in (False, True):
        for said in ("hi", "think"):
            messages(claude, said, streamed)
            respond(gpt, said, streamed)
            messages(claude, said, streamed, model="codex")
    rows = [served.row(row["request_id"]) for row in served.rows() if row["request_id"] not in before]
    assert len(rows) == 12
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(12 * COST)
    assert {row["basis"] for row in rows} == {"exact"}


@pytest.mark.one_process("it looks at, or stops, one process")
def test_sigkill_loses_no_row_of_relays_and_releases_every_hold(proxy: ProxyFactory, server: Server) -> None:
    served = proxy(config(*models(server), limits={"project": {"max_budget": 100}}))
    bodies: dict[str, dict[str, Any]] = {
        "messages": {"model": "claude", "max_tokens": 5000},
        "responses": {"model": "gpt"},
    }

    def body(endpoint: str, said: str, **more: Any) -> dict[str, Any]:
        field = "messages" if endpoint == "messages" else "input"
        return {**bodies[endpoint], field: [{"role": "user", "content": said}], **more}

    answered = [
        raw(served, f"/v1/{endpoint}", body(endpoint, "hi", stream=streamed)).headers["x-request-id"]
        for endpoint in bodies
        for streamed in (False, True)
    ]
    before = len(server.asked)
    with Wire(served.port) as one, Wire(served.port) as two:
        for wire, endpoint in ((one, "messages"), (two, "responses")):
            wire.send(request(f"/v1/{endpoint}", body(endpoint, "wait", stream=True), **served.auth))
        until(lambda: len(server.asked) == before + 2, "both arrive upstream")
        served.kill()
    served.start()
    rows = {row["request_id"]: row for row in served.rows()}
    assert len(rows) == len(answered) + 2
    for number in answered:
        found = rows.pop(number)
        assert (found["status"], found["basis"], found["cost_usd"]) == ("ok", "exact", pytest.approx(COST))
    assert {(row["endpoint"], row["status"], row["basis"]) for row in rows.values()} == {
        (endpoint, "error", "crash_estimate") for endpoint in bodies
    }
    assert keys(served.database, "reconcile").returncode == 0


@BOTH
def test_the_content_of_relayed_answers_is_kept_as_chats(
    module_proxy: ProxyFactory, server: Server, streamed: bool
) -> None:
    tracking = {"requests": {"content": True}}
    served = module_proxy(config(*models(server), tracking=tracking))
    bodies = {
        "/v1/messages": {"model": "claude", "max_tokens": 5000, "messages": [turn("think")]},
        "/v1/responses": {"model": "gpt", "input": "think"},
    }
    for path, body in bodies.items():
        answer = raw(served, path, {**body, "stream": streamed})
        found = served.row(answer.headers["x-request-id"])
        whole = served.admin("GET", f"/requests/{found['request_id']}").json()
        assert "get_weather" in str(whole["content"]["choices"])
        assert GUARDRAIL in str(whole["content"]["messages"])


@BOTH
def test_an_answer_in_the_other_form_is_translated(served: Proxy, streamed: bool) -> None:
    body = {"model": "claude", "max_tokens": 5000, "messages": [turn("other form")], "stream": streamed}
    answer = raw(served, "/v1/messages", body)
    assert answer.status_code == 200, answer.text
    if streamed:
        assert answer.text.count("event: message_stop") == 1
    else:
        assert answer.json()["content"][0]["text"] == "You said: other form"
    row = served.row(answer.headers["x-request-id"])
    assert (row["status"], row["cost_usd"]) == ("ok", pytest.approx(COST))


@pytest.mark.one_process("each server learns by itself which endpoints an upstream lacks")
def test_an_upstream_without_the_endpoint_is_asked_for_chats(
    served: Proxy, gpt: OpenAI, server: Server
) -> None:
    for streamed, paths in (
        (False, ["/responses", "/chat/completions"]),
        (True, ["/chat/completions"]),
        (False, ["/chat/completions"]),
    ):
        before = len(server.asked)
        assert respond(gpt, "hello", streamed, model="chats-only").output_text
        assert [one.path.rpartition("/v1")[2] for one in server.asked[before:]] == paths
        row = served.row(served.rows()[0]["request_id"])
        outcomes = [("caller", 404), ("ok", 200)][-len(paths) :]
        assert [(one["class"], one["status"]) for one in row["attempts"]] == outcomes
    states = served.admin("GET", "/health").json()["models"]
    missing = {one["model"]: one["missing_endpoints"] for one in states if "missing_endpoints" in one}
    assert missing == {"chats-only": ["responses"]}
