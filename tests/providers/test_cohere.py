"""Cohere's dialect: what is sent in its words, and what it says that the other dialects have no word for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.config.build import freeze
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.cohere import adapter as cohere
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, fold, read
from tests.support.dialects.cohere import DIALOGUE, call, called, end, events, message, start, whole
from tests.support.dialects.sent import (
    HISTORY,
    IDLE,
    LEGACY,
    NO_ARGUMENTS,
    TIME,
    WEATHER,
    assert_refused,
    body,
    messages,
    request,
)

HERE = deployment(provider="cohere")
STREAMED = chat(stream=True, include_usage=True)


def answer(raw: bytes, **asked: Any) -> Any:
    return orjson.loads(cohere.parse_response(raw, chat(**asked), HERE).body)


def test_a_request_matches_the_expected_json() -> None:
    asked = chat(
        stream=True,
        params={
            "temperature": 0.2,
            "top_p": 0.9,
            "top_k": 40,
            "stop": "END",
            "max_completion_tokens": 100,
            "seed": 7,
            "tools": [WEATHER, TIME],
            "tool_choice": "required",
            **{name: value for name, value in IDLE.items() if name not in ("tools", "tool_choice")},
        },
        metadata={"ticket": "42"},
    )
    found = cohere.to_request(asked, deployment(provider="cohere", base_url=None))
    assert found.url == "https://api.cohere.com/v2/chat"
    assert found.headers == {
        "content-type": "application/json",
        "authorization": "Bearer sk-upstream-secret",
    }
    assert found.dropped == ()
    assert orjson.loads(found.body) == {
        "model": "m-upstream",
        "messages": asked.messages,
        "stream": True,
        "temperature": 0.2,
        "p": 0.9,
        "k": 40,
        "stop_sequences": ["END"],
        "max_tokens": 100,
        "seed": 7,
        "tools": [
            WEATHER,
            {"type": "function", "function": {"name": "time", "parameters": NO_ARGUMENTS}},
        ],
        "tool_choice": "REQUIRED",
    }


@each(
    ("params", "sent"),
    [
        (IDLE, {}),
        ({"tool_choice": "none"}, {}),
        ({"top_p": 1}, {"p": 0.99}),
        ({"top_p": 0}, {"p": 0.01}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"presence_penalty": 1}, {"presence_penalty": 1}),
        ({"logprobs": True}, {"logprobs": True}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object"}},
                }
            },
            {"response_format": {"type": "json_object", "json_schema": {"type": "object"}}},
        ),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "token_budget": 1024}}),
        ({"reasoning_effort": "medium"}, {"thinking": {"type": "enabled", "token_budget": 4096}}),
        ({"reasoning_effort": "high"}, {"thinking": {"type": "enabled"}}),
        ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        ({"safety_mode": "OFF", "documents": ["d"]}, {"safety_mode": "OFF", "documents": ["d"]}),
    ],
)
def test_parameters_are_translated(params: dict[str, Any], sent: dict[str, Any]) -> None:
    assert body("cohere", **params) == sent


@each(
    ("name", "value"),
    [
        ("n", 2),
        ("logit_bias", {"1": 2}),
        ("presence_penalty", -0.5),
        ("frequency_penalty", 1.5),
        ("stop", list("abcdef")),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("reasoning_effort", "extreme"),
        ("response_format", {"type": "grammar"}),
        ("tools", [{"type": "custom", "custom": {"name": "c"}}]),
        ("min_p", 0.1),
    ],
)
def test_unsupported_parameters_are_refused_or_reported(name: str, value: Any) -> None:
    assert_refused("cohere", name, value)


def test_top_logprobs_are_refused_only_beside_logprobs() -> None:
    assert_refused("cohere", "top_logprobs", 3, logprobs=True)
    assert body("cohere", top_logprobs=3) == {}


def test_an_entry_may_set_parameters_that_clients_may_not() -> None:
    own = freeze({"raw_prompting": True, "response_format": {"type": "json_object"}})
    here = deployment(provider="cohere", params=own)
    sent = orjson.loads(cohere.to_request(chat(params=dict(own)), here).body)
    assert sent["raw_prompting"] is True
    assert sent["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("choice", "tools", "word"),
    [
        ("auto", [WEATHER, TIME], None),
        ("none", [WEATHER, TIME], "NONE"),
        ("required", [WEATHER, TIME], "REQUIRED"),
        ({"type": "function", "function": {"name": "weather"}}, [WEATHER], "REQUIRED"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}},
            [WEATHER],
            None,
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
            [WEATHER],
            "REQUIRED",
        ),
    ],
)
def test_a_choice_of_one_tool_sends_only_that_tool(choice: Any, tools: list[Any], word: Any) -> None:
    sent = body("cohere", tools=[WEATHER, TIME], tool_choice=choice)
    assert [tool["function"]["name"] for tool in sent["tools"]] == [t["function"]["name"] for t in tools]
    assert sent.get("tool_choice") == word


def test_a_choice_of_an_unknown_tool_is_an_error() -> None:
    with pytest.raises(ProxyError) as caught:
        request("cohere", tools=[TIME], tool_choice={"type": "function", "function": {"name": "weather"}})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "tool_choice")


def test_strict_tools_is_set_if_every_tool_is_strict() -> None:
    def strictly(tool: dict[str, Any]) -> dict[str, Any]:
        return {**tool, "function": {**tool["function"], "strict": True}}

    sent = body("cohere", tools=[strictly(WEATHER), strictly(TIME)])
    assert sent["strict_tools"] is True
    assert "strict" not in sent["tools"][0]["function"]
    assert "strict_tools" not in body("cohere", tools=[strictly(WEATHER), TIME])


def test_a_tool_conversation_has_only_supported_fields() -> None:
    assert messages("cohere", *HISTORY) == [
        HISTORY[0],
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ],
        },
        HISTORY[3],
    ]


def test_developer_messages_become_system_and_unknown_part_fields_are_removed() -> None:
    text = {"type": "text", "text": "Look.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}}
    refusal = {"type": "refusal", "refusal": "No."}
    assert messages(
        "cohere",
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [text, image]},
        {"role": "assistant", "content": [refusal]},
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look."}, image]},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
    ]


def test_audio_is_refused_with_its_position() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    with pytest.raises(ProxyError) as caught:
        messages("cohere", {"role": "user", "content": [sound]})
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[0].type")


# --- answers -------------------------------------------------------------------------------------------------


def test_an_answer_matches_the_expected_json() -> None:
    assert answer(DIALOGUE.answers["tools"].whole) == {
        "id": "chatcmpl-c-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m-upstream",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "I will check.",
                    "tool_calls": [call("weather", '{"city":"Oslo"}'), call("time", "{}")],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


@pytest.mark.parametrize(
    ("reported", "found"),
    [
        ({"billed_units": {"input_tokens": 3.0, "output_tokens": 4.0}}, Usage(3, 4)),
        (
            {"tokens": {"input_tokens": 5}, "billed_units": {"input_tokens": 3, "output_tokens": 4}},
            Usage(5, 4),
        ),
        ({"tokens": {"input_tokens": -1, "output_tokens": 2}}, Usage(0, 2)),
        ({"tokens": {"input_tokens": "1", "output_tokens": 2}}, Usage(1, 2)),
        ({}, None),
        (None, None),
    ],
)
def test_billed_units_are_used_if_tokens_are_missing(reported: Any, found: Usage | None) -> None:
    raw = orjson.dumps({**orjson.loads(whole("COMPLETE", content=[])), "usage": reported})
    event = cohere.parse_response(raw, chat(), HERE)
    assert event.usage == found
    assert ("usage" in orjson.loads(event.body)) is (found is not None)
    ending = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": reported}}
    streamed, complete = read(cohere, [events(start(), ending)], STREAMED, HERE)
    assert complete
    assert [e.usage for e in streamed if e.usage] == ([found] if found else [])


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("COMPLETE", "stop"), ("STOP_SEQUENCE", "stop"), ("MAX_TOKENS", "length"), ("SOMETHING_NEW", "stop")],
)
def test_every_finish_reason_is_translated(reason: str, ours: str) -> None:
    raw = whole(reason, content=[{"type": "text", "text": "x"}])
    assert answer(raw)["choices"][0]["finish_reason"] == ours


@pytest.mark.parametrize("reason", ["ERROR", "TIMEOUT"])
@pytest.mark.parametrize("content", [[], [{"type": "text", "text": "Half of"}]])
def test_a_failed_generation_is_a_failed_attempt(reason: str, content: list[Any]) -> None:
    with pytest.raises(AttemptError):
        cohere.parse_response(whole(reason, content=content), chat(), HERE)


def test_logprobs_are_returned_with_their_text() -> None:
    items = [
        {"text": "Hel", "token_ids": [1], "logprobs": [-0.5]},
        {"text": "lo", "token_ids": [2, 3], "logprobs": [-0.25, -0.5]},
    ]
    wanted = [
        {"token": "Hel", "logprob": -0.5, "bytes": None, "top_logprobs": []},
        {"token": "lo", "logprob": -0.75, "bytes": None, "top_logprobs": []},
    ]
    reply = orjson.loads(whole("COMPLETE", content=[{"type": "text", "text": "Hello"}]))
    assert answer(orjson.dumps({**reply, "logprobs": items}))["choices"][0]["logprobs"] == {"content": wanted}
    deltas = [
        {
            "type": "content-delta",
            "index": 0,
            **message({"content": {"text": item["text"]}}),
            "logprobs": item,
        }
        for item in items
    ]
    streamed, _ = read(cohere, [events(start(), *deltas, end("COMPLETE"))], STREAMED, HERE)
    assert fold(streamed)["choices"][0]["logprobs"] == {"content": wanted}


def test_tool_call_indexes_start_at_zero() -> None:
    shown = chunks(read(cohere, [DIALOGUE.answers["tools"].stream], STREAMED, HERE)[0])
    calls = [c for one in shown for choice in one["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert [one["index"] for one in calls] == [0, 0, 0, 1, 1]
    assert {choice["index"] for one in shown for choice in one["choices"]} == {0}


def test_fragments_without_an_index_belong_to_the_latest_call() -> None:
    plain = [{name: v for name, v in one.items() if name != "index"} for one in called(0, "f", "{", "}")]
    streamed, _ = read(cohere, [events(start(), *plain, end("TOOL_CALL"))], STREAMED, HERE)
    assert fold(streamed)["choices"][0]["message"]["tool_calls"][0]["function"] == {
        "name": "f",
        "arguments": "{}",
    }


def test_legacy_functions_round_trip() -> None:
    asked = chat(messages=LEGACY, params={"functions": [WEATHER["function"]], "function_call": "auto"})
    sent = orjson.loads(cohere.to_request(asked, HERE).body)
    assert sent["tools"] == [WEATHER]
    assert [one["role"] for one in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][1]["tool_calls"][0]["id"] == sent["messages"][2]["tool_call_id"]
    raw = DIALOGUE.answers["tools"]
    choice = orjson.loads(cohere.parse_response(raw.whole, asked, HERE).body)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert "tool_calls" not in choice["message"]
    streamed, _ = read(cohere, [raw.stream], asked, HERE)
    folded = fold(streamed)["choices"][0]
    assert folded["message"]["function_call"] == choice["message"]["function_call"]
    assert folded["finish_reason"] == "function_call"


def test_a_context_length_error_in_a_stream_is_a_client_error() -> None:
    raw = events(start(), end("ERROR", error="too many tokens: size limit exceeded by 10 tokens"))
    with pytest.raises(AttemptError) as caught:
        read(cohere, [raw], STREAMED, HERE)
    assert caught.value.failure.reason == "context_length"


strange = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["", "x", "text"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["message", "content", "tool_calls", "text", "function", "index", "usage"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
kinds = st.sampled_from([one["type"] for one in (*called(0, "f", "{}"), start(), end("COMPLETE"))])


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": kinds | strange}, optional={"delta": strange, "index": strange, "logprobs": strange}
        ),
        max_size=5,
    ),
    strange,
)
def test_arbitrary_json_causes_at_most_a_failed_attempt(reply: list[Any], odd: Any) -> None:
    raw = b"".join(b"data: " + orjson.dumps(one) + b"\n\n" for one in reply)
    with suppress(AttemptError):
        read(cohere, [raw], STREAMED, HERE)
    with suppress(AttemptError):
        cohere.parse_response(orjson.dumps({"message": odd, "usage": odd, "logprobs": odd}), chat(), HERE)
