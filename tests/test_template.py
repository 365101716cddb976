"""A chunk that is known by heart means what a parser finds in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.providers import openai_stream, text
from codellama_proxy.providers.openai_stream import StreamState
from codellama_proxy.providers.template import learn
from codellama_proxy.sse import Frame
from codellama_proxy.types import Event
from tests.building import chat, deployment

Parse = Callable[..., tuple[StreamState, Sequence[Event]]]


def chunk(said: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": said}, "finish_reason": None}
    return orjson.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **more}
    )


def completed(said: str, **more: Any) -> bytes:
    choice = {"index": 0, "text": said, "finish_reason": None}
    return orjson.dumps({"id": "c", "object": "text_completion", "created": 1, "choices": [choice], **more})


def events_of(parse: Parse, frames: Sequence[bytes], *, by_heart: bool) -> list[tuple[Any, ...]]:
    state = None
    found: list[tuple[Any, ...]] = []
    for frame in frames:
        state, events = parse(state, Frame(frame), chat(stream=True), deployment("a"))
        if not by_heart:
            state = state._replace(usual=None)
        found += [(event.body and orjson.loads(event.body), *event[1:]) for event in events]
    return found


extras = st.sampled_from(
    [
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        {"obfuscation": "x7"},
        {"id": "other"},
        {"created": 2},
        {"system_fingerprint": "fp"},
        {"model": "m"},
        {"error": None},
    ]
)
said = st.one_of(
    st.text(max_size=8), st.sampled_from(["@", '"', "\\", "\n", "é", "😀", "\x7f", "content", "c"])
)


@given(st.lists(st.tuples(said, extras), max_size=12), st.sampled_from([chunk, completed]))
def test_a_stream_reads_the_same_with_and_without_templates(
    told: list[tuple[str, dict[str, Any]]], make: Callable[..., bytes]
) -> None:
    parse = openai_stream.parse_stream if make is chunk else text.parse_stream
    frames = [make(one, **more) for one, more in told]
    assert events_of(parse, frames, by_heart=True) == events_of(parse, frames, by_heart=False)


@given(st.lists(st.tuples(st.binary(max_size=6), st.booleans()), max_size=8))
def test_any_bytes_in_place_of_the_text_read_the_same(told: list[tuple[bytes, bool]]) -> None:
    before, after = chunk("here").split(b"here")
    frames = [chunk("one"), chunk("two")] + [before + odd + (after if ends else b"") for odd, ends in told]
    by_heart = events_of(openai_stream.parse_stream, frames, by_heart=True)
    assert by_heart == events_of(openai_stream.parse_stream, frames, by_heart=False)


@pytest.mark.parametrize("more", [{}, {"usage": None}, {"x_groq": {}}, {"object": "wrong"}])
def test_the_second_chunk_of_its_kind_is_known_by_heart(more: dict[str, Any]) -> None:
    state: StreamState | None = None
    for frame in (chunk("one", **more), chunk("two", **more)):
        state, _ = openai_stream.parse_stream(state, Frame(frame), chat(stream=True), deployment("a"))
    assert state is not None
    assert state.usual is not None
    event = state.usual.event_of(chunk(' three "and" é', **more))
    assert event is not None
    assert event.text == ' three "and" é'
    assert orjson.loads(event.body) == orjson.loads(chunk(' three "and" é'))


def test_what_depends_on_the_text_has_no_template() -> None:
    def parse(raw: bytes) -> list[Event]:
        found = orjson.loads(raw)["said"]
        return [Event(raw, True, found, finish_reason="stop" if found == "@" else None)]

    raw = b'{"said":"one"}'
    assert learn(raw, parse(raw), parse) is None


def test_a_text_that_stands_in_two_places_has_no_template() -> None:
    assert learn(b'["a","a"]', [Event(b'["a","a"]', True, "a")], lambda _: []) is None


def test_a_choice_that_ends_ends_its_template() -> None:
    state: StreamState | None = None
    ended = chunk("").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    for frame in (chunk("one"), chunk("two"), ended):
        state, _ = openai_stream.parse_stream(state, Frame(frame), chat(stream=True), deployment("a"))
    assert state is not None
    assert state.usual is None
