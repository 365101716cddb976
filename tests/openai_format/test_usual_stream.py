"""The fold of usual streams is the fold of any stream."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.completion import message_text
from codellama_proxy.openai_format.folding import as_whole, chunks_of, fold
from codellama_proxy.openai_format.runs import around, with_runs
from codellama_proxy.openai_format.usual_stream import usual_completion

TEXTS = st.sampled_from(["a", "b", "ab", '"', "\\", "\n", "é", "\U0001f600", "m", "content", "stop", ""])
CALLS = st.builds(
    lambda index, more, arguments: {"index": index, **more, "function": arguments},
    st.sampled_from([0, 0, 1]),
    st.sampled_from([{}, {}, {"id": "c"}]),
    TEXTS.map(lambda text: {"arguments": text})
    | TEXTS.map(lambda text: {"name": text})
    | st.sampled_from([{}, None]),
)
DELTAS = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["assistant", "user", None]),
            "refusal": st.sampled_from([None, "no"]),
            "content": TEXTS | st.none(),
            "reasoning_content": TEXTS,
            "tool_calls": st.lists(CALLS, max_size=2) | st.none(),
            "content2": TEXTS,
        },
    ),
    st.sampled_from([None, [], "x"]),
)
CHOICES = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 0, 1, True, 0.0, None]), "delta": DELTAS},
    optional={
        "finish_reason": st.sampled_from([None, None, "stop", "length", 1]),
        "logprobs": st.sampled_from([None, {"content": [{"token": "a"}]}]),
        "text": TEXTS,
    },
)
USUAL_CHOICES = st.fixed_dictionaries(
    {
        "index": st.just(0),
        "delta": TEXTS.map(lambda text: {"content": text}),
        "finish_reason": st.sampled_from([None, None, None, "stop"]),
    }
)
CHUNKS = st.fixed_dictionaries(
    {"id": st.just("c"), "object": st.sampled_from(["chat.completion.chunk"] * 9 + ["chat"])},
    optional={
        "created": st.sampled_from([1, 1, 1, 1.0, True]),
        "model": st.sampled_from(["m", "m", "a", "ab", None]),
        "x": st.sampled_from([None, {"content": "a"}, {"content": "ab"}]),
        "choices": st.lists(USUAL_CHOICES, min_size=1, max_size=1)
        | st.lists(USUAL_CHOICES, min_size=1, max_size=1)
        | st.lists(CHOICES, max_size=2),
        "usage": st.sampled_from([None, {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}]),
    },
)
SPELLINGS = st.sampled_from(
    [
        lambda body: body,
        lambda body: body,
        lambda body: body.replace(b":", b": ").replace(b",", b", "),
        lambda body: body.replace(b'"content":"a"', b'"content":"\\u0061"'),
    ]
)


def event(chunk: dict[str, Any], spelling: Any = lambda body: body, usage: Usage | None = None) -> Event:
    """As a dialect's parser gives it."""
    deltas = [choice.get("delta") for choice in chunk.get("choices") or ()]
    text = "".join([message_text(delta) for delta in deltas if isinstance(delta, dict)])
    return Event(spelling(orjson.dumps(chunk)), bool(text), text, usage, model=chunk.get("model"))


def usual(delta: dict[str, Any], finish_reason: str | None = None) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


USUAL = TEXTS.map(lambda text: usual({"content": text}))
CALL_PIECES = TEXTS.map(lambda text: usual({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}))
BEGUN = st.sampled_from(
    [usual({"role": "assistant", "content": ""}), usual({"role": "assistant"}), usual({})]
)
USAGE = event({"id": "c", "model": "m", "choices": [], "usage": {"prompt_tokens": 1}})
ENDS = st.sampled_from([[], [usual({}, "stop")], [usual({}, "stop"), Event(b"", usage=Usage(1, 2)), USAGE]])
EVENTS = st.builds(event, CHUNKS, SPELLINGS, st.sampled_from([None, None, None, Usage(1, 2)]))
STREAMS = st.one_of(
    st.tuples(st.lists(BEGUN, max_size=1), st.lists(USUAL, max_size=8), ENDS).map(
        lambda parts: [*parts[0], *parts[1], *parts[2]]
    ),
    st.lists(USUAL | USUAL | USUAL | BEGUN | EVENTS, max_size=8),
    st.lists(CALL_PIECES | CALL_PIECES | EVENTS, max_size=8),
    st.lists(EVENTS, max_size=4).flatmap(lambda events: st.permutations([*events, *events])),
)


def runs(events: list[Event]) -> list[Event]:
    """The events, with those that differ in the text of their only choice joined, as the relay joins them."""
    found: list[Event] = []
    for key, group in groupby(events, lambda one: one[2] and around(one.text, one.body)):
        alike = list(group)
        if not key or len(alike) == 1 or not key[0].endswith((b'"content":"', b'"arguments":"')):
            found += alike
            continue
        body = BETWEEN.join([one.body for one in alike])
        found.append(Event(body, True, "".join([one.text for one in alike]), model=alike[0].model))
    return found


def one_by_one(events: list[Event]) -> dict[str, Any] | None:
    """The fold of all chunks; `None` if there is none."""
    try:
        return fold([orjson.loads(body) for one in events for body in one.body.split(BETWEEN) if body])
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


@given(STREAMS, st.sampled_from([list, with_runs, runs]))
def test_the_fold_is_that_of_all_chunks_one_by_one(events: list[Event], joined: Any) -> None:
    whole, found = one_by_one(events), joined(events)
    usual = usual_completion(found)
    if usual is not None:
        assert orjson.dumps(usual) == orjson.dumps(whole)
    if whole is not None:
        assert orjson.dumps(fold(chunks_of(found))) == orjson.dumps(whole)


def test_a_usual_stream_needs_no_general_fold() -> None:
    words = [usual({"content": word}) for word in ("one ", '"two"\n', "three")]
    run = Event(BETWEEN.join([one.body for one in words[1:]]), True, '"two"\nthree', model="m")
    begun, finish = usual({"role": "assistant", "content": ""}), usual({}, "stop")
    for stream in (
        [begun, *words, finish, USAGE],
        [words[0], run, finish, Event(b"", usage=Usage(1, 2)), USAGE],
    ):
        completion = usual_completion(stream)
        assert completion is not None
        assert completion["choices"][0]["message"] == {"role": "assistant", "content": 'one "two"\nthree'}
        assert as_whole(stream).text == 'one "two"\nthree'


@pytest.mark.parametrize("field", ["content", "arguments"])
def test_chunks_with_parts_of_one_string_are_one_chunk(field: str) -> None:
    def piece(text: str) -> Event:
        call = {"index": 0, "function": {"arguments": text}}
        return usual({"content": text} if field == "content" else {"tool_calls": [call]})

    stream = [piece("{"), piece('"a"'), Event(BETWEEN.join([piece("1").body, piece("}").body]), True, "1}")]
    assert len(list(chunks_of(stream))) == 1
