"""A chunk that is known by heart means what a parser finds in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.openai import completions as text
from codellama_proxy.providers.openai import stream as openai_stream
from codellama_proxy.providers.openai.stream_state import StreamState
from codellama_proxy.providers.registry import ADAPTERS, RELAYS, Adapter
from codellama_proxy.upstream.chunk_template import StreamParser, learn
from tests.support.builders import chat, deployment

Parse = Callable[..., tuple[StreamState, Sequence[Event]]]


def chunk(answer_text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": answer_text}, "finish_reason": None}
    return orjson.dumps(
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **more}
    )


def completed(answer_text: str, **more: Any) -> bytes:
    choice = {"index": 0, "text": answer_text, "finish_reason": None}
    return orjson.dumps({"id": "c", "object": "text_completion", "created": 1, "choices": [choice], **more})


def reader(parse: Parse, parsed: list[bytes] | None = None) -> StreamParser:
    """`parsed` is told what it had to parse."""

    def of_a_stream(state: Any, frame: Frame) -> tuple[StreamState, Sequence[Event]]:
        if parsed is not None:
            parsed.append(frame.data)
        return parse(state, frame, chat(stream=True), deployment("a"))

    return StreamParser(of_a_stream)


def seen(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [(event.body and orjson.loads(event.body), *event[1:]) for event in events]


def events_of(interpreter: StreamParser, frames: Sequence[Frame]) -> list[Any]:
    """What the frames say, up to one that cannot be read."""
    found: list[Any] = []
    for frame in frames:
        try:
            found += seen(interpreter.events_of(frame))
        except AttemptError as failed:
            return [*found, failed.failure.reason]
    return found


def matched_by_template(parse: Parse, frames: Sequence[Frame]) -> list[Any]:
    return events_of(reader(parse), frames)


def parsed_without_template(parse: Parse, frames: Sequence[Frame]) -> list[Any]:
    """Every state is another object, so nothing is known by heart."""

    def parse_anew(state: Any, *more: Any) -> tuple[Any, Sequence[Event]]:
        after, events = parse(state, *more)
        return copy(after), events

    return events_of(reader(parse_anew), frames)


def read(frames: Sequence[bytes]) -> tuple[Sequence[Event], bool]:
    """The events of the last frame, and whether it had to be parsed."""
    parsed: list[bytes] = []
    interpreter = reader(openai_stream.parse_stream, parsed)
    for frame in frames:
        events = interpreter.events_of(Frame(frame))
    return events, frames[-1] in parsed


extras = st.sampled_from(
    [
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        {"obfuscation": "x7"},
        {"obfuscation": "longer"},
        {"obfuscation": '"'},
        {"usage": None, "obfuscation": ""},
        {"obfuscation": "x", "model": "m"},
        {"id": "other"},
        {"created": 2},
        {"system_fingerprint": "fp"},
        {"model": "m"},
        {"error": None},
    ]
)
answer_text = st.one_of(
    st.text(max_size=8), st.sampled_from(["@", '"', "\\", "\n", "é", "😀", "\x7f", "content", "c"])
)


@given(st.lists(st.tuples(answer_text, extras), max_size=12), st.sampled_from([chunk, completed]))
def test_parsing_is_the_same_with_and_without_templates(
    events_of: list[tuple[str, dict[str, Any]]], make: Callable[..., bytes]
) -> None:
    parse = openai_stream.parse_stream if make is chunk else text.parse_stream
    frames = [Frame(make(one, **more)) for one, more in events_of]
    assert matched_by_template(parse, frames) == parsed_without_template(parse, frames)


MESSAGES = (ADAPTERS["anthropic"], RELAYS["messages"]["anthropic"])


@given(st.lists(answer_text, max_size=12), st.booleans(), st.sampled_from(MESSAGES))
def test_parsing_of_another_dialect_is_the_same_with_templates(
    events_of: list[str], thinks: bool, adapter: Adapter
) -> None:
    name = "thinking" if thinks else "text"
    block: dict[str, Any] = {"index": 0, "content_block": {"type": name, name: ""}}
    start = {"message": {"id": "m", "model": "c", "usage": {"input_tokens": 1}}}
    events: list[tuple[str, dict[str, Any]]] = [("message_start", start), ("content_block_start", block)]
    deltas = [{"type": f"{name}_delta", name: one} for one in events_of]
    events += [("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas]
    frames = [Frame(orjson.dumps({"type": kind, **body}), kind) for kind, body in events]
    parse = adapter.parse_stream
    assert matched_by_template(parse, frames) == parsed_without_template(parse, frames)


def test_frames_that_are_passed_on_have_a_template() -> None:
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one"}}
    data = orjson.dumps(delta)
    raw = b"event: content_block_delta\ndata: " + data + b"\n\n"

    def parse(frame: Frame) -> list[Event]:
        text = orjson.loads(frame.data)["delta"]["text"]
        return [Event(b"{}" + orjson.dumps(text), True, text, raw=raw.replace(data, frame.data))]

    template = learn(Frame(data), parse(Frame(data)), parse)
    assert template is not None
    other = Frame(data.replace(b"one", b"two"))
    assert template.event_of(other) == parse(other)[0]


def test_padding_of_any_length_belongs_to_the_template() -> None:
    paddings = ("x7", "", "longer-than-before")
    frames = [chunk("one"), *[chunk("two", usage=None, obfuscation=padding) for padding in paddings]]
    events, parsed = read([*frames, chunk("three", usage=None, obfuscation="y")])
    assert not parsed
    assert [event.text for event in events] == ["three"]
    assert b"obfuscation" not in events[0].body


@given(st.lists(st.tuples(st.binary(max_size=6), st.booleans()), max_size=8))
def test_arbitrary_bytes_as_text_parse_the_same(events_of: list[tuple[bytes, bool]]) -> None:
    before, after = chunk("here").split(b"here")
    odd = [before + one + (after if ends else b"") for one, ends in events_of]
    frames = [Frame(one) for one in (chunk("one"), chunk("two"), *odd)]
    parse = openai_stream.parse_stream
    assert matched_by_template(parse, frames) == parsed_without_template(parse, frames)


@pytest.mark.parametrize("more", [{}, {"usage": None}, {"x_groq": {}}, {"object": "wrong"}])
def test_the_third_similar_chunk_is_matched_by_a_template(more: dict[str, Any]) -> None:
    (event,), was_parsed = read(
        [chunk(answer_text, **more) for answer_text in ("one", "two", ' three "and" é')]
    )
    assert not was_parsed
    assert event.text == ' three "and" é'
    assert orjson.loads(event.body) == orjson.loads(chunk(' three "and" é', model=deployment("a").model))


def test_a_chunk_with_text_dependent_fields_has_no_template() -> None:
    def parse(frame: Frame) -> list[Event]:
        found = orjson.loads(frame.data)["said"]
        return [Event(frame.data, True, found, finish_reason="stop" if found == "@" else None)]

    frame = Frame(b'{"said":"one"}')
    assert learn(frame, parse(frame), parse) is None


def test_a_text_that_occurs_twice_has_no_template() -> None:
    assert learn(Frame(b'["a","a"]'), [Event(b'["a","a"]', True, "a")], lambda _: []) is None


def test_a_finished_choice_ends_its_template() -> None:
    ended = chunk("").replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    _, was_parsed = read([chunk("one"), chunk("two"), ended, chunk("three")])
    assert was_parsed
