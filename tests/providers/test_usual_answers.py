"""Chunks and answers without anything to repair: read in a shorter way that finds the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.sse import Frame
from codellama_proxy.openai_format.completion import CHAT_CHUNK, CHAT_COMPLETION
from codellama_proxy.providers.openai.response import repaired_answer
from codellama_proxy.providers.openai.stream import content, parse_frame
from codellama_proxy.providers.openai.stream_state import StreamState
from codellama_proxy.providers.openai.usual_answer import usual_answer
from codellama_proxy.providers.openai.usual_chunk import usual_chunk
from tests.support.builders import chat

ASKED = chat(stream=True)
AROUND = {"id": "chatcmpl-1", "object": CHAT_CHUNK, "created": 1, "model": "m", "system_fingerprint": "fp"}
OPENAIS = [
    {"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None}, "finish_reason": None},
    {"index": 0, "delta": {"content": "one"}, "logprobs": None, "finish_reason": None},
    {"index": 0, "delta": {"content": ' "two"'}, "logprobs": None, "finish_reason": None},
    {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"},
]

texts = st.sampled_from(["", "a", 'say "usage"', ',"usage":null', "\n", "é😀"])
others = st.sampled_from([None, "", 0, 1, True, [], {}, ["x"], {"x": 1}, "stop", "assistant"])


def fields(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, and now and then another value in one, or another field."""
    objects = st.fixed_dictionaries({}, optional=usual)
    odd = st.dictionaries(st.sampled_from([*usual, "tool_calls", "error", "x"]), others, max_size=1)
    return st.one_of(objects, objects, st.builds(lambda one, more: {**one, **more}, objects, odd))


deltas = fields(role=st.just("assistant"), content=texts, refusal=st.none())
choices = fields(
    index=st.just(0),
    delta=deltas,
    finish_reason=st.sampled_from([None, "stop", "length"]),
    logprobs=st.none(),
)
chunks = fields(
    id=st.sampled_from(["a", "a", "b"]),
    object=st.just(CHAT_CHUNK),
    created=st.sampled_from([1, 1, 2]),
    model=st.sampled_from(["m", "n", ""]),
    choices=st.lists(choices, min_size=1, max_size=2) | st.builds(lambda one: [one], choices),
    usage=st.none() | st.just({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
)
reports = st.builds(
    lambda usage, more: {**AROUND, "choices": [], "usage": usage, **more},
    st.sampled_from([{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, {}, {"x": 1}, None]),
    st.dictionaries(st.sampled_from(["error", "message", "object", "choices"]), others, max_size=1),
)
usual = st.builds(
    lambda delta, reason: {**AROUND, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]},
    deltas,
    st.sampled_from([None, None, "stop"]),
)


@given(st.lists(usual | chunks | reports, min_size=1, max_size=6), st.booleans())
def test_the_shorter_way_finds_the_same(stream: list[dict[str, Any]], indented: bool) -> None:
    state = StreamState()
    for chunk in stream:
        frame = Frame(orjson.dumps(chunk).replace(b":", b": ") if indented else orjson.dumps(chunk))
        found = usual_chunk(state, frame)
        if found is None:
            return
        after, events = parse_frame(state, frame, ASKED, CHAT_CHUNK, content)
        assert (found[0], [*found[1]]) == (after, [*events])
        state = after


@pytest.mark.parametrize("more", [{}, {"usage": None}, {"service_tier": "default"}])
def test_it_reads_all_chunks_of_openais_own_streams(more: dict[str, Any]) -> None:
    state = StreamState()
    bodies = []
    for choice in OPENAIS:
        found = usual_chunk(state, Frame(orjson.dumps({**AROUND, "choices": [choice], **more})))
        assert found is not None
        state, (event,) = found
        bodies.append(event.body)
    report = {**AROUND, "choices": [], "usage": USAGE}
    assert usual_chunk(state, Frame(orjson.dumps(report))) is not None
    assert state.complete
    assert not any(b'"usage"' in body for body in bodies)


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
messages = fields(
    role=st.just("assistant"), content=texts, refusal=st.none(), annotations=st.sampled_from([[], None])
)
answers = fields(
    id=st.just("a"),
    object=st.just(CHAT_COMPLETION),
    created=st.just(1),
    model=st.sampled_from(["m", ""]),
    choices=st.lists(
        fields(index=st.just(0), message=messages, finish_reason=st.just("stop"), logprobs=st.none()),
        min_size=1,
        max_size=2,
    ),
    usage=st.sampled_from([None, USAGE, {}, {**USAGE, "total_tokens": 3.0}, {"prompt_tokens": 4}]),
    service_tier=st.sampled_from(["default", "flex"]),
)
usual_answers = st.builds(
    lambda content, more: {
        **AROUND,
        "object": CHAT_COMPLETION,
        **more,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        ],
    },
    texts,
    st.dictionaries(
        st.sampled_from(["usage", "service_tier", "x", "error"]), others | st.just(USAGE), max_size=1
    ),
)


@given(usual_answers | answers)
def test_the_shorter_way_finds_the_same_in_an_answer(answer: dict[str, Any]) -> None:
    body = orjson.dumps(answer)
    found = usual_answer(body, orjson.loads(body))
    if found is None:
        return
    assert found == repaired_answer(body, orjson.loads(body), ASKED, "other")


def test_it_reads_openais_own_answers() -> None:
    message = {"role": "assistant", "content": "one", "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    details = {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
    answer = {
        **AROUND,
        "object": CHAT_COMPLETION,
        "choices": [choice],
        "usage": {**USAGE, **details},
        "service_tier": "default",
    }
    event = usual_answer(orjson.dumps(answer), answer)
    assert event is not None
    assert (event.text, event.usage and event.usage.service_tier) == ("one", "default")
