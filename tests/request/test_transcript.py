"""An answer put together from its events is the answer that was sent in pieces."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.types import Event
from codellama_proxy.request.transcript import MAX_CONTENT_BYTES, Transcript


def collected(*bodies: Any) -> Transcript:
    transcript = Transcript()
    for body in bodies:
        transcript.add([Event(orjson.dumps(body))])
    return transcript


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


@given(st.lists(st.text()), st.lists(st.text()))
def test_content_and_reasoning_are_joined(texts: list[str], thought: list[str]) -> None:
    pieces = [chunk(reasoning_content=text) for text in thought] + [chunk(content=text) for text in texts]
    (choice,) = collected(chunk(role="assistant"), *pieces, chunk(finish="stop")).choices()
    assert choice["message"].get("content") == ("".join(texts) if texts else None)
    assert choice["message"].get("reasoning_content", "") == "".join(thought)
    assert choice["finish_reason"] == "stop"


@given(st.lists(st.tuples(st.text(min_size=1), st.lists(st.text())), max_size=4))
def test_tool_calls_are_joined_by_their_index(calls: list[tuple[str, list[str]]]) -> None:
    pieces = []
    for index, (name, arguments) in enumerate(calls):
        start = {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name}}
        pieces.append(chunk(tool_calls=[start]))
        pieces += [
            chunk(tool_calls=[{"index": index, "function": {"arguments": text}}]) for text in arguments
        ]
    (choice,) = collected(chunk(role="assistant"), *pieces).choices()
    found = choice["message"].get("tool_calls", [])
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in found] == [
        (f"call_{index}", name, "".join(arguments)) for index, (name, arguments) in enumerate(calls)
    ]


def test_choices_are_kept_apart() -> None:
    choices = collected(chunk(1, content="b"), chunk(0, content="a"), chunk(1, content="B")).choices()
    assert [(c["index"], c["message"]["content"]) for c in choices] == [(0, "a"), (1, "bB")]


def test_a_plain_completion_is_used_unchanged() -> None:
    message = {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
    assert collected(whole).choices() == [{"index": 0, "message": message, "finish_reason": "length"}]


def test_logprobs_annotations_and_audio_are_kept() -> None:
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]},
        {"choices": [{"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}}]},
        chunk(annotations=[{"type": "url_citation"}]),
        chunk(audio={"id": "audio_1", "data": "AA"}),
        chunk(audio={"data": "BB"}, finish="stop"),
    ]
    (choice,) = collected(*pieces).choices()
    assert choice["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}
    assert choice["message"]["annotations"] == [{"type": "url_citation"}]
    assert choice["message"]["audio"] == {"id": "audio_1", "data": "AABB"}


def test_text_completions_are_collected_as_messages() -> None:
    pieces = [{"object": "text_completion", "choices": [{"index": 0, "text": text}]} for text in "ab"]
    last = {"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    message = {"role": "assistant", "content": "ab"}
    assert collected(*pieces, last).choices() == [{"index": 0, "message": message, "finish_reason": "stop"}]


def test_usage_and_empty_events_add_no_choices() -> None:
    transcript = collected({"choices": [], "usage": {}})
    transcript.add([Event(b"")])
    assert transcript.choices() == []


def test_the_collected_text_is_bounded() -> None:
    transcript = collected(*[chunk(content="x" * 1000)] * (MAX_CONTENT_BYTES // 1000 + 10))
    assert transcript.cut
    assert 0 < len(transcript.choices()[0]["message"]["content"]) < MAX_CONTENT_BYTES


def test_a_completion_that_was_parsed_is_not_parsed_again() -> None:
    message = {"role": "assistant", "content": "x"}
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    transcript = Transcript()
    transcript.add([Event(b"its bytes are not read", completion=completion)])
    assert transcript.choices() == completion["choices"]
    assert transcript.choices() is transcript.choices()
