"""AI21's dialect: plain text, few parameters, and answers that do not say what they are."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers import ai21
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, fold, read
from tests.support.conversations import sse
from tests.support.dialects.ai21 import DIALOGUE, chunk
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

HERE = deployment(provider="ai21")
STREAMED = chat(stream=True, include_usage=True)


def test_a_request_matches_the_expected_json() -> None:
    asked = chat(
        params={**IDLE, "temperature": 0.2, "max_completion_tokens": 9, "stop": "END", "n": 2},
        metadata={"ticket": "42"},
    )
    found = ai21.to_request(asked, deployment(provider="ai21", base_url=None))
    assert found.url == "https://api.ai21.com/studio/v1/chat/completions"
    assert found.headers["authorization"] == "Bearer sk-upstream-secret"
    assert found.dropped == ()
    assert orjson.loads(found.body) == {
        "model": "m-upstream",
        "messages": asked.messages,
        "temperature": 0.2,
        "max_tokens": 9,
        "stop": "END",
        "n": 2,
    }


@each(
    ("name", "value"),
    [
        ("seed", 7),
        ("presence_penalty", 0.5),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"1": 2}),
        ("logprobs", True),
        ("reasoning_effort", "low"),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("tools", [{"type": "custom", "custom": {"name": "c"}}]),
        ("top_k", 4),
    ],
)
def test_unsupported_parameters_are_refused_or_reported(name: str, value: Any) -> None:
    assert_refused("ai21", name, value)


def test_several_choices_are_supported_only_without_streaming() -> None:
    assert body("ai21", n=2) == {"n": 2}
    assert_refused("ai21", "n", 2, stream=True)
    assert orjson.loads(request("ai21", stream=True).body)["stream"] is True


def test_tool_choice_is_auto_or_the_tools_are_omitted() -> None:
    described = {"type": "function", "function": {"name": "time", "parameters": NO_ARGUMENTS}}
    assert body("ai21", tools=[WEATHER, TIME]) == {"tools": [WEATHER, described]}
    assert body("ai21", tools=[WEATHER], tool_choice="auto") == {"tools": [WEATHER]}
    assert body("ai21", tools=[WEATHER], tool_choice="none") == {}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        assert_refused("ai21", "tool_choice", choice, tools=[WEATHER])


def test_system_messages_and_adjacent_messages_of_a_role_are_merged() -> None:
    assert messages(
        "ai21",
        {"role": "system", "content": "Only code."},
        {"role": "user", "content": "One."},
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
        },
        {"role": "user", "content": "Two.", "name": "bob"},
        {"role": "assistant", "content": "Hm."},
    ) == [
        {"role": "system", "content": "Only code.\n\nBe\nbrief."},
        {"role": "user", "content": "One.\n\nTwo."},
        {"role": "assistant", "content": "Hm."},
    ]


def test_tool_calls_and_results_are_not_merged() -> None:
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "ab"]
    sent = messages("ai21", *HISTORY[:3], *results)
    assert [one["role"] for one in sent] == ["system", "user", "assistant", "tool", "tool"]
    assert sent[2].keys() == {"role", "tool_calls"}
    assert sent[3:] == results


def test_images_are_refused_with_their_position() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ProxyError) as caught:
        messages("ai21", {"role": "user", "content": [image]})
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[0].type")


def test_missing_answer_fields_are_filled_in() -> None:
    found = orjson.loads(ai21.parse_response(DIALOGUE.answers["text"].whole, chat(), HERE).body)
    assert (found["object"], found["model"]) == ("chat.completion", "m-upstream")
    assert found["created"] == 1_700_000_000
    shown = chunks(read(ai21, [DIALOGUE.answers["text"].stream], STREAMED, HERE)[0])
    assert {one["model"] for one in shown} == {"m-upstream"}
    assert {one["object"] for one in shown} == {"chat.completion.chunk"}
    assert shown[-1]["choices"] == []
    assert all("usage" not in one for one in shown[:-1])


def test_legacy_functions_round_trip() -> None:
    asked = chat(messages=LEGACY, params={"functions": [WEATHER["function"]]})
    sent = orjson.loads(ai21.to_request(asked, HERE).body)
    assert sent["tools"] == [WEATHER]
    raw = DIALOGUE.answers["tools"]
    choice = orjson.loads(ai21.parse_response(raw.whole, asked, HERE).body)["choices"][0]
    assert choice["message"]["function_call"]["name"] == "weather"
    assert choice["finish_reason"] == "function_call"
    folded = fold(read(ai21, [raw.stream], asked, HERE)[0])["choices"][0]
    assert folded["message"]["function_call"] == choice["message"]["function_call"]


@pytest.mark.parametrize("detail", ["Internal error", [{"loc": ["body"], "msg": "bad", "type": "t"}]])
def test_an_error_in_a_stream_is_a_failed_attempt(detail: Any) -> None:
    for raw in (sse({"detail": detail}), sse(chunk({"content": "x"}), {"detail": detail})):
        with pytest.raises(AttemptError):
            read(ai21, [raw], STREAMED, HERE)
