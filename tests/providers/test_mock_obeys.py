"""The mock obeys the parameters of a request, plain and streamed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.providers.mock.reply import MAX_ANSWER_TOKENS
from codellama_proxy.providers.mock.script import script
from codellama_proxy.providers.openai import completions as completions_dialect
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.client_fold import fold, read

HERE = deployment("mock", provider="mock", base_url=None)
REPLY = "one two three four"
BOTH = pytest.mark.parametrize("streamed", [False, True])
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 1}},
    "required": ["city"],
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
SHELL = {"type": "custom", "custom": {"name": "shell"}}


def answer(streamed: bool, **params: Any) -> dict[str, Any]:
    """The answer to a chat as our own dialect reads it."""
    asked = chat(stream=streamed, messages=[{"role": "user", "content": "hi"}], params=params)
    pieces = script(ADAPTERS["mock"].to_request(asked, HERE).body, Mock(reply=REPLY)).pieces
    body = b"".join(piece for _, piece in pieces)
    if not streamed:
        return orjson.loads(ADAPTERS["mock"].parse_response(body, chat(), HERE).body)  # type: ignore[no-any-return]  # JSON
    events, complete = read(ADAPTERS["mock"], [body], chat(stream=True, include_usage=True), HERE)
    assert complete
    return fold(events)


def choice(streamed: bool, **params: Any) -> dict[str, Any]:
    found = answer(streamed, **params)
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    (one,) = found["choices"]
    return one  # type: ignore[no-any-return]  # JSON


@BOTH
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("most", "text", "finish"), [(2, "one two ", "length"), (4, REPLY, "stop"), (9, REPLY, "stop")]
)
def test_the_answer_ends_at_max_tokens(streamed: bool, name: str, most: int, text: str, finish: str) -> None:
    found = answer(streamed, **{name: most})
    assert found["choices"][0]["message"]["content"] == text
    assert found["choices"][0]["finish_reason"] == finish
    assert found["usage"]["completion_tokens"] == min(most, 4)


@BOTH
@pytest.mark.parametrize(
    ("stop", "text"),
    [("three", "one two "), (["four", "two"], "one "), ("absent", REPLY), ("one", ""), (None, REPLY)],
)
def test_the_answer_ends_before_a_stop_sequence(streamed: bool, stop: Any, text: str) -> None:
    found = choice(streamed, stop=stop)
    assert (found["message"]["content"] or "", found["finish_reason"]) == (text, "stop")


@BOTH
def test_choices_and_limits_combine(streamed: bool) -> None:
    found = answer(streamed, n=3, max_tokens=2, stop="three")
    assert [one["message"]["content"] for one in found["choices"]] == ["one two "] * 3
    assert [one["finish_reason"] for one in found["choices"]] == ["stop"] * 3
    assert found["usage"]["completion_tokens"] == 6


@BOTH
@pytest.mark.parametrize("top", [None, 0, 3])
def test_log_probabilities_are_those_of_the_tokens(streamed: bool, top: int | None) -> None:
    found = choice(streamed, logprobs=True, max_tokens=2, **({} if top is None else {"top_logprobs": top}))
    entries = found["logprobs"]["content"]
    assert [one["token"] for one in entries] == ["one ", "two "]
    for one in entries:
        assert bytes(one["bytes"]).decode() == one["token"]
        assert one["logprob"] <= 0
        assert len(one["top_logprobs"]) == (top or 0)
        assert len({other["token"] for other in one["top_logprobs"]}) == (top or 0)


@BOTH
def test_without_logprobs_there_are_none(streamed: bool) -> None:
    assert choice(streamed).get("logprobs") is None
    assert choice(streamed, logprobs=False).get("logprobs") is None


@BOTH
@pytest.mark.parametrize(
    ("forced", "name", "arguments"),
    [
        ({"type": "function", "function": {"name": "get_time"}}, "get_time", {}),
        ({"type": "function", "function": {"name": "get_weather"}}, "get_weather", {"city": "a"}),
        ("required", "get_weather", {"city": "a"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}}, "get_time", {}),
    ],
)
def test_a_forced_function_is_called(streamed: bool, forced: Any, name: str, arguments: Any) -> None:
    found = choice(streamed, tools=[WEATHER, CLOCK], tool_choice=forced)
    (call,) = found["message"]["tool_calls"]
    assert found["finish_reason"] == "tool_calls"
    assert not found["message"].get("content")
    assert (call["type"], call["function"]["name"]) == ("function", name)
    assert orjson.loads(call["function"]["arguments"]) == arguments
    assert call["id"].startswith("call_")


@BOTH
@pytest.mark.parametrize("forced", ["auto", "none", None])
def test_a_tool_that_is_not_forced_is_not_called(streamed: bool, forced: Any) -> None:
    found = choice(streamed, tools=[WEATHER], **({"tool_choice": forced} if forced else {}))
    assert found["message"]["content"] == REPLY


@BOTH
def test_a_forced_legacy_function_is_called(streamed: bool) -> None:
    functions = [{"name": "get_weather", "parameters": PARAMETERS}]
    found = choice(streamed, functions=functions, function_call={"name": "get_weather"})
    assert found["finish_reason"] == "function_call"
    called = found["message"]["function_call"]
    assert (called["name"], orjson.loads(called["arguments"])) == ("get_weather", {"city": "a"})


@BOTH
def test_every_choice_calls_the_tool_with_an_id_of_its_own(streamed: bool) -> None:
    found = answer(streamed, n=2, tools=[WEATHER], tool_choice="required")
    ids = {one["message"]["tool_calls"][0]["id"] for one in found["choices"]}
    assert len(ids) == 2


@BOTH
def test_arguments_end_at_max_tokens(streamed: bool) -> None:
    wide = {"type": "object", "properties": {"a": {"minLength": 99, "type": "string"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": wide}}
    found = answer(streamed, tools=[tool], tool_choice="required", max_tokens=1)
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 1


@BOTH
@pytest.mark.parametrize(
    ("form", "value"),
    [
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}, {"city": "a"}),
    ],
)
def test_structured_output_is_the_smallest_instance(streamed: bool, form: Any, value: Any) -> None:
    found = choice(streamed, response_format=form)
    assert orjson.loads(found["message"]["content"]) == value
    assert found["finish_reason"] == "stop"


def test_text_is_the_default_response_format() -> None:
    assert choice(False, response_format={"type": "text"})["message"]["content"] == REPLY


def completion(streamed: bool, **params: Any) -> list[dict[str, Any]]:
    """The documents of an answer to `/completions`."""
    asked = chat(endpoint="completions", messages=(), stream=streamed, params={"prompt": "x", **params})
    body = completions_dialect.to_request(asked, HERE).body
    sent = b"".join(piece for _, piece in script(body, Mock(reply=REPLY), "completions").pieces)
    if not streamed:
        return [orjson.loads(sent)]
    events = [part.removeprefix(b"data: ") for part in sent.split(b"\n\n") if part.startswith(b"data: {")]
    return [orjson.loads(event) for event in events]


@BOTH
def test_completions_obey_too(streamed: bool) -> None:
    choices = [
        one
        for each in completion(streamed, max_tokens=3, stop=["four"], logprobs=2)
        for one in each["choices"]
    ]
    assert "".join(one["text"] for one in choices) == "one two three "
    assert choices[-1]["finish_reason"] == "stop"
    scored = [one["logprobs"] for one in choices if one.get("logprobs")]
    assert [token for one in scored for token in one["tokens"]] == ["one ", "two ", "three "]
    assert [offset for one in scored for offset in one["text_offset"]] == [0, 4, 8]
    assert all(len(top) == 2 for one in scored for top in one["top_logprobs"])


def played(**request: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    body = orjson.dumps({"model": "m", "messages": messages, **request})
    return b"".join(piece for _, piece in script(body, Mock()).pieces)


@pytest.mark.parametrize(
    "odd",
    [
        {"tool_choice": {"type": "function"}, "tools": [1, {}, {"type": "function"}]},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}},
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "allowed_tools"}]},
            }
        },
        {"tool_choice": "required", "tools": []},
        {
            "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": 3, "parameters": [1]}}],
        },
        {"tool_choice": {"type": "function", "function": {"name": "absent"}}, "tools": [WEATHER]},
        {"function_call": {"name": "f"}, "functions": [{"name": "f", "parameters": 7}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
        {"response_format": {"type": "json_schema"}},
        {"stop": ["", None], "max_tokens": -1, "logprobs": "x", "top_logprobs": -5},
    ],
)
@BOTH
def test_odd_parameters_are_answered(odd: dict[str, Any], streamed: bool) -> None:
    assert b'"choices"' in played(stream=streamed, **odd)


def test_a_custom_tool_gets_text() -> None:
    found = orjson.loads(played(tools=[SHELL], tool_choice={"type": "custom", "custom": {"name": "shell"}}))
    (call,) = found["choices"][0]["message"]["tool_calls"]
    assert call["custom"]["name"] == "shell"
    assert call["custom"]["input"]


def test_an_answer_is_bounded() -> None:
    body = played(n=128, logprobs=True, top_logprobs=20)
    assert len(orjson.loads(body)["choices"][0]["logprobs"]["content"]) <= MAX_ANSWER_TOKENS // (128 * 21)
    assert len(body) < 30_000_000
