"""Answers in OpenAI's dialect: relayed as they came, and repaired where they would break a client."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.types import Event, Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, fold, read
from tests.support.dialogues import HEAD, call, chunk, fragment, sse, stream, whole

HERE = deployment(provider="together")
DONE = b"[DONE]"
STREAMED = chat(stream=True, include_usage=True)


def answered(message: dict[str, Any], finish_reason: Any = "stop", **more: Any) -> Event:
    return ADAPTERS["openai"].parse_response(whole(message, finish_reason, **more), chat(), HERE)


def streamed(*data: Any) -> list[Event]:
    events, complete = read(ADAPTERS["openai"], [sse(*data)], STREAMED, HERE)
    assert complete
    return events


def choice_of(event: Event) -> dict[str, Any]:
    return orjson.loads(event.body)["choices"][0]  # type: ignore[no-any-return]  # JSON


# --- finish reasons ------------------------------------------------------------------------------------------

REASONS = {
    "stop": "stop eos eos_token stop_sequence end_turn COMPLETE STOP_SEQUENCE STOP end pause_turn unheard_of",
    "length": "length max_tokens MAX_TOKENS model_length model_context_window_exceeded max_new_tokens",
    "tool_calls": "tool_use tool_calls TOOL_CALL",
    "function_call": "function_call",
    "content_filter": "content_filter refusal SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII "
    "IMAGE_SAFETY MODEL_ARMOR LANGUAGE guardrail_intervened content_filtered sensitive",
}
MAPPED = [(found, ours) for ours, words in REASONS.items() for found in words.split()]


@each(("found", "ours"), MAPPED)
def test_finish_reasons_are_one_of_openais_five(found: str, ours: str) -> None:
    event = answered({"content": "x"}, found)
    assert choice_of(event)["finish_reason"] == event.finish_reason == ours
    last = streamed(chunk({"role": "assistant", "content": "x"}), chunk({}, found), DONE)[-1]
    assert choice_of(last)["finish_reason"] == last.finish_reason == ours


@pytest.mark.parametrize("found", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "incomplete"])
def test_an_invalid_end_is_a_failure_unless_there_is_content(found: str) -> None:
    assert answered({"content": "x"}, found).finish_reason == "stop"
    assert streamed(chunk({"content": "x"}), chunk({}, found), DONE)[-1].finish_reason == "stop"
    with pytest.raises(AttemptError):
        answered({"content": ""}, found)
    with pytest.raises(AttemptError):
        streamed(chunk({"role": "assistant"}), chunk({}, found), DONE)


ABANDONED = ["ERROR", "TIMEOUT", "failed", "abort", "insufficient_system_resource", "network_error"]


@each("found", ABANDONED)
@each("content", ["", "half of"])
def test_an_answer_aborted_by_the_upstream_fails(found: str, content: str) -> None:
    with pytest.raises(AttemptError):
        answered({"content": content}, found)
    with pytest.raises(AttemptError):
        streamed(chunk({"content": content}), chunk({}, found), DONE)


@pytest.mark.parametrize("empty", ["", False, 0, [], {}])
def test_an_empty_finish_reason_is_not_an_end(empty: Any) -> None:
    assert answered({"content": "x"}, empty).finish_reason is None
    events, complete = read(ADAPTERS["openai"], [sse(chunk({"content": "x"}, empty))], STREAMED, HERE)
    assert not complete
    assert [choice_of(event)["finish_reason"] for event in events] == [None]


@pytest.mark.parametrize("odd", [True, 5, ["stop"], {"reason": "stop"}])
def test_a_finish_reason_of_another_type_is_unreadable(odd: Any) -> None:
    with pytest.raises(AttemptError):
        answered({"content": "x"}, odd)
    with pytest.raises(AttemptError):
        read(ADAPTERS["openai"], [sse(chunk({"content": "x"}, odd))], STREAMED, HERE)


def test_the_finish_reason_after_tool_calls_is_tool_calls() -> None:
    assert answered({"content": None, "tool_calls": [call("f", "{}")]}, "eos").finish_reason == "tool_calls"
    events = streamed(chunk({"tool_calls": [{"index": 0, **call("f", "{}")}]}), chunk({}, "stop"), DONE)
    assert events[-1].finish_reason == "tool_calls"


# --- repairs -------------------------------------------------------------------------------------------------


def test_a_valid_answer_is_relayed_byte_for_byte() -> None:
    odd = b'{ "unknown" : [1, 2.50], ' + whole({"content": "x", "annotations": []})[1:]
    assert ADAPTERS["openai"].parse_response(odd, chat(), HERE).body == odd


def test_a_valid_chunk_is_relayed_byte_for_byte_without_null_usage() -> None:
    raw = orjson.dumps(chunk({"content": 'say "usage":null', "unknown": 1}))
    assert b',"usage":null' in raw
    assert streamed(raw, chunk({}, "stop"), DONE)[0].body == raw.replace(b',"usage":null', b"")


@given(st.integers(0, 6), st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]), st.text(max_size=5))
def test_null_usage_is_removed_in_every_position(place: int, separators: tuple[str, str], text: str) -> None:
    fields = list(chunk({"content": text + ',"usage":null'}).items())
    fields.insert(place, fields.pop())
    (event,) = [e for e in streamed(json.dumps(dict(fields), separators=separators).encode(), DONE) if e.body]
    found = orjson.loads(event.body)
    assert "usage" not in found
    assert found["choices"][0]["delta"]["content"] == text + ',"usage":null'


def test_missing_fields_are_filled_in() -> None:
    bare = {"choices": [{"index": 0, "message": {"role": "assistant"}, "finish_reason": "stop"}]}
    found = orjson.loads(ADAPTERS["openai"].parse_response(orjson.dumps(bare), chat(), HERE).body)
    assert (found["id"], found["object"], found["created"]) == (
        "chatcmpl-req_1",
        "chat.completion",
        1_700_000_000,
    )
    assert found["choices"][0]["message"]["content"] == ""
    spoken = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
    shown = chunks(streamed(spoken, spoken, {"choices": [{"index": 0, "finish_reason": "stop"}]}, DONE))
    for found in shown:
        assert (found["id"], found["object"]) == ("chatcmpl-req_1", "chat.completion.chunk")
        assert found["created"] == 1_700_000_000
        assert "delta" in found["choices"][0]


def test_id_and_created_are_those_of_the_first_chunk() -> None:
    events = streamed(
        chunk({"content": "a"}),
        chunk({"content": "b"}, id="other", created=5),
        chunk({}, "stop", id=None),
        DONE,
    )
    assert {(c["id"], c["created"]) for c in chunks(events)} == {(HEAD["id"], HEAD["created"])}


def test_reasoning_is_always_reasoning_content() -> None:
    message = choice_of(answered({"content": "4", "reasoning": "2+2"}))["message"]
    assert message == {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    event = streamed(chunk({"reasoning": "2+2"}), chunk({}, "stop"), DONE)[0]
    assert choice_of(event)["delta"] == {"reasoning_content": "2+2"}
    assert event.content


def test_incomplete_tool_calls_are_completed() -> None:
    bare = {"function": {"name": "f", "arguments": {"a": [1]}}}
    none = {"function": {"name": "g"}, "extra_content": {"kept": True}}
    message = choice_of(answered({"tool_calls": [bare, none]}, "tool_calls"))["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        call("f", '{"a":[1]}', "call_req_1_0_0"),
        {**call("g", "{}", "call_req_1_0_1"), "extra_content": {"kept": True}},
    ]


def test_streamed_tool_calls_get_missing_index_and_id() -> None:
    bare = {"function": {"name": "f", "arguments": ""}}
    events = streamed(
        chunk({"tool_calls": [bare]}),
        chunk({"tool_calls": [{"function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [{"function": {"arguments": "1}"}}]}),
        chunk({"tool_calls": [{"function": {"name": "g", "arguments": {"b": 2}}}]}),
        chunk({"tool_calls": [{"index": 2.0, **call("h", "{}")}]}),
        chunk({}, "stop"),
        DONE,
    )
    assert fold(events)["choices"][0]["message"]["tool_calls"] == [
        call("f", '{"a":1}', "call_req_1_0_0"),
        call("g", '{"b":2}', "call_req_1_0_1"),
        call("h", "{}"),
    ]


@pytest.mark.parametrize("deltas", [True, False])
def test_calls_in_a_message_after_deltas_are_sent_once(deltas: bool) -> None:
    calls = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": "one", "tool_calls": calls}
    first = chunk({"role": "assistant", "content": "one"})
    between = [chunk({"tool_calls": calls})] if deltas else []
    last = {**HEAD, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    found = fold(streamed(first, *between, last, DONE))["choices"][0]["message"]
    assert found["content"] == "one"
    assert [call["function"] for call in found["tool_calls"]] == [{"name": "f", "arguments": "{}"}]


def test_fragments_of_a_valid_call_are_unchanged() -> None:
    raw = orjson.dumps(fragment(0, "{}")).replace(b',"usage":null', b"")
    events = streamed(chunk({"tool_calls": [{"index": 0, **call("f", "")}]}), raw, chunk({}, "stop"), DONE)
    assert events[1].body == raw


def test_a_role_is_sent_once_for_each_choice() -> None:
    def of(index: int, **delta: Any) -> dict[str, Any]:
        choices = [{"index": index, "delta": {"role": "assistant", **delta}, "finish_reason": None}]
        return {**HEAD, "choices": choices}

    events = streamed(of(0, content="a"), of(1, content="b"), of(0, content="c"), of(1, content="d"), DONE)
    assert [("role" in c["choices"][0]["delta"]) for c in chunks(events)] == [True, True, False, False]


def test_padding_and_token_ids_are_removed() -> None:
    events = streamed(chunk({"content": "x", "token_id": 17}, obfuscation="aaaa", x_groq={"id": "r"}), DONE)
    (shown,) = chunks(events)
    assert "obfuscation" not in shown
    assert "x_groq" not in shown
    assert shown["choices"][0]["delta"] == {"content": "x"}


def test_empty_choices_at_the_start_are_omitted() -> None:
    leading = {**HEAD, "id": "", "choices": [], "prompt_filter_results": []}
    events = streamed(leading, chunk({"content": "x"}), chunk({}, "stop"), DONE)
    assert [c["id"] for c in chunks(events)] == [HEAD["id"]] * 2


def test_legacy_logprobs_are_converted() -> None:
    legacy = {"tokens": ["a", "b"], "token_logprobs": [-0.5, -1], "token_ids": [1, 2]}
    expected = [
        {"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []},
        {"token": "b", "logprob": -1, "bytes": None, "top_logprobs": []},
    ]
    choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
    body = orjson.dumps({**HEAD, "choices": [{**choice, "logprobs": legacy}]})
    assert choice_of(ADAPTERS["openai"].parse_response(body, chat(), HERE))["logprobs"] == {
        "content": expected
    }
    events = streamed(
        *(
            {**HEAD, "choices": [{"index": 0, "delta": {"content": text}, "logprobs": value}]}
            for text, value in [("a", -0.5), ("b", -1)]
        ),
        chunk({}, "stop"),
        DONE,
    )
    assert fold(events)["choices"][0]["logprobs"] == {"content": expected}


# --- usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": -1.5}, "12", [1]])
def test_unreported_usage_is_unknown_and_not_zero(usage: Any) -> None:
    assert answered({"content": "x"}, usage=usage).usage is None
    events = streamed(chunk({"content": "x"}), chunk({}, "stop", usage=usage), DONE)
    assert all(event.usage is None for event in events)


def test_an_explicit_zero_stays_zero() -> None:
    zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert answered({"content": ""}, usage=zero).usage == Usage(0, 0)


def test_only_the_last_running_total_is_shown_at_the_end() -> None:
    totals = [{"prompt_tokens": 20, "completion_tokens": n, "total_tokens": 20 + n} for n in (1, 2, 3)]
    events = streamed(
        chunk({"role": "assistant", "content": "a"}, usage=totals[0]),
        chunk({"content": "b"}, usage=totals[1]),
        chunk({"content": ""}, "eos", usage=totals[2]),
        DONE,
    )
    shown = chunks(events)
    assert ["usage" in one for one in shown] == [False, False, False, True]
    assert shown[-1]["usage"] == totals[2]
    assert shown[-1]["choices"] == []
    assert (shown[-1]["id"], shown[-1]["model"]) == (HEAD["id"], "m-2026")
    assert [e.usage.completion_tokens for e in events if e.usage] == [1, 2, 3]


def test_a_stream_without_done_is_complete_if_every_choice_ended() -> None:
    raw = stream(chunk({"content": "x"}), chunk({}, "stop")).replace(b"data: [DONE]\n\n", b"")
    assert read(ADAPTERS["openai"], [raw], chat(stream=True), HERE)[1]
    open_one = sse(chunk({"content": "x"}), {**HEAD, "choices": [{"index": 1, "delta": {"content": "y"}}]})
    assert not read(ADAPTERS["openai"], [open_one + sse(chunk({}, "stop"))], chat(stream=True), HERE)[1]


def test_a_stream_without_a_requested_choice_is_incomplete() -> None:
    one = [chunk({"content": "x"}), chunk({}, "stop")]
    other = {"choices": [{"index": 1, "delta": {"content": "y"}, "finish_reason": "stop"}]}
    two = STREAMED._replace(params={"n": 2})
    for pieces, complete in ((one, False), ([*one, other], True), ([*one, DONE], True)):
        assert read(ADAPTERS["openai"], [sse(*pieces)], two, HERE)[1] is complete
