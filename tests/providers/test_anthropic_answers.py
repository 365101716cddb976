"""What Anthropic's Messages API answers, whole and streamed, beyond what every dialect has in common."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Usage
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.anthropic import adapter as anthropic
from tests.support.builders import chat, deployment
from tests.support.cases import each
from tests.support.client_fold import chunks, read
from tests.support.dialects.anthropic import USAGE, called, end, events, start, text, whole


def entry() -> Deployment:
    return deployment(provider="anthropic", model="claude-sonnet-4-6")


def answer(raw: bytes) -> tuple[Any, Usage | None]:
    event = anthropic.parse_response(raw, chat(), entry())
    return orjson.loads(event.body)["choices"][0], event.usage


@each(
    ("stop_reason", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "stop"),
        ("something_new", "stop"),
    ],
)
def test_every_stop_reason_is_translated(stop_reason: str, reason: str) -> None:
    choice, _ = answer(whole(stop_reason, {"type": "text", "text": "hi"}))
    assert choice["finish_reason"] == reason
    found, complete = read(
        anthropic, [events(start(), *text(0, "hi"), *end(stop_reason))], chat(stream=True), entry()
    )
    assert complete
    assert [event.finish_reason for event in found if event.finish_reason] == [reason]


def test_blocks_of_server_tools_are_skipped() -> None:
    server_tool = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}
    choice, _ = answer(whole("end_turn", server_tool, {"type": "text", "text": "hi"}))
    assert choice["message"] == {"role": "assistant", "content": "hi"}


def test_an_answer_without_content_is_valid() -> None:
    choice, usage = answer(whole("end_turn"))
    assert choice["message"]["content"] == ""
    assert usage == Usage(20, 7, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2)


def test_invalid_usage_is_ignored() -> None:
    for broken in (None, {}, {"input_tokens": "many"}, {"input_tokens": -1}, {"input_tokens": True}):
        assert answer(whole("end_turn", usage=broken))[1] is None
    assert answer(whole("end_turn", usage={"input_tokens": 5, "output_tokens": 2}))[1] == Usage(5, 2)
    assert answer(whole("end_turn", usage={"input_tokens": "5", "output_tokens": 1.5}))[1] == Usage(5, 2)


def test_the_last_usage_report_is_used() -> None:
    *begun, _, stop = [start(), *text(0, "hi"), *end("end_turn")]
    corrected = {"input_tokens": 100, "cache_read_input_tokens": 0, "output_tokens": 9}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": corrected}
    found, _ = read(anthropic, [events(*begun, last, stop)], chat(stream=True), entry())
    assert [event.usage for event in found if event.usage][-1] == Usage(103, 9, cache_write_tokens=3)


def test_a_tool_call_with_complete_input_is_emitted_at_its_end() -> None:
    opened, closing = called(0, "f")
    opened = {**opened, "content_block": {**opened["content_block"], "input": {"a": 1}}}
    found, _ = read(anthropic, [events(start(), opened, closing, *end("tool_use"))], chat(), entry())
    calls = [c["choices"][0]["delta"].get("tool_calls") for c in chunks(found) if c["choices"]]
    assert [one[0]["function"]["arguments"] for one in calls if one] == ["", '{"a":1}']


def test_only_message_stop_ends_a_stream() -> None:
    raw = events(start(), *text(0, "hi"), *end("end_turn"))
    *_, last = [place for place in range(len(raw)) if raw.startswith(b"event: message_stop", place)]
    found, complete = read(anthropic, [raw[:last]], chat(), entry())
    assert not complete
    assert not any(event.finish_reason for event in found)


@pytest.mark.parametrize(
    ("kind", "cls", "status"),
    [
        ("overloaded_error", "busy", 529),
        ("rate_limit_error", "busy", 429),
        ("invalid_request_error", "caller", 400),
        ("authentication_error", "credential", 401),
        ("api_error", "transient", 500),
        ("unheard_of", "disguised", 200),
    ],
)
def test_an_error_event_has_the_status_of_its_type(kind: str, cls: str, status: int) -> None:
    raw = events(start(), {"type": "error", "error": {"type": kind, "message": "no"}})
    with pytest.raises(AttemptError) as caught:
        read(anthropic, [raw], chat(), entry())
    assert (caught.value.failure.cls, caught.value.failure.status) == (cls, status)


strange = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", [], [1], {}, {"a": 1}])


def mutated_object(**fields: Any) -> Any:
    return strange | st.fixed_dictionaries({}, optional={name: strange | of for name, of in fields.items()})


kinds = st.sampled_from(["text", "tool_use", "thinking", "redacted_thinking", "server_tool_use"])
blocks = mutated_object(
    type=kinds, text=st.just("t"), id=st.just("i"), name=st.just("n"), input=st.just({"a": 1})
)
deltas = mutated_object(
    type=st.sampled_from(["text_delta", "thinking_delta", "signature_delta", "input_json_delta"]),
    text=st.just("t"),
    thinking=st.just("h"),
    signature=st.just("s"),
    partial_json=st.just("{}"),
    stop_reason=st.sampled_from(["end_turn", "refusal", "tool_use"]),
    stop_details=strange,
)
happenings = mutated_object(
    type=st.sampled_from(
        [
            *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
            *("message_delta", "message_stop", "ping"),
        ]
    ),
    index=st.integers(0, 2),
    message=mutated_object(id=st.just("m"), model=st.just("c"), usage=strange | st.just(USAGE)),
    content_block=blocks,
    delta=deltas,
    usage=strange | st.just(USAGE),
    content=st.lists(blocks, max_size=2),
    stop_reason=st.just("refusal"),
)


@given(st.lists(happenings, max_size=6), st.booleans())
def test_arbitrary_json_causes_at_most_a_failed_attempt(values: list[Any], legacy: bool) -> None:
    asked = chat(stream=True, params={"functions": []} if legacy else {})
    raw = b"".join(b"data: " + orjson.dumps(value) + b"\n\n" for value in values)
    try:
        found, _ = read(anthropic, [raw], asked, entry())
    except AttemptError:
        found = []
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks(found))
    for value in values:
        with suppress(AttemptError):
            assert anthropic.parse_response(orjson.dumps(value), asked, entry()).content


COMPACTED = {
    "input_tokens": 13,
    "output_tokens": 7,
    "iterations": [
        {"type": "compaction", "input_tokens": 50_000, "output_tokens": 900, "cache_read_input_tokens": 100},
        {"type": "message", "input_tokens": 13, "output_tokens": 7},
    ],
}
"""A report as in docs.anthropic.com/en/docs/build-with-claude/compaction: the sums are those of the last iteration."""
BILLED = Usage(50_113, 907, cached_tokens=100)


def test_compactions_of_the_context_are_part_of_the_usage() -> None:
    _, usage = answer(whole("end_turn", {"type": "text", "text": "ok"}, usage=COMPACTED))
    assert usage == BILLED
    last, stop = end("end_turn")
    pieces = [start(), *text("ok"), {**last, "usage": COMPACTED}, stop]
    found, _ = read(anthropic, [events(*pieces)], chat(stream=True), entry())
    assert [event.usage for event in found if event.usage][-1] == BILLED


@each(
    "iterations",
    ([], {}, None, "x", [None, 1, {}], [{"input_tokens": -1}], [{"input_tokens": 1, "output_tokens": 2}]),
)
def test_iterations_never_lower_the_usage(iterations: Any) -> None:
    reported = {**COMPACTED, "iterations": iterations}
    _, usage = answer(whole("end_turn", {"type": "text", "text": "ok"}, usage=reported))
    assert usage == Usage(13, 7)
