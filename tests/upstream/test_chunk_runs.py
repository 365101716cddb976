"""A run of chunks means what its chunks mean one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codellama_proxy.core.sse import BETWEEN, DONE, Decoder, encode, frame_at
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.folding import chunks_of, fold
from codellama_proxy.providers.openai import completions
from codellama_proxy.providers.openai import stream as openai_stream
from codellama_proxy.request.transcript import Transcript
from codellama_proxy.upstream.chunk_template import StreamParser
from tests.support.builders import chat, deployment

HEAD = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
ROLE = f'{HEAD}"delta":{{"role":"assistant","content":""}},"finish_reason":null}}]}}'.encode()
FINISH = f'{HEAD}"delta":{{}},"finish_reason":"stop"}}]}}'.encode()
USAGE = (
    b'{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)


def chunk(inside: bytes, field: str = "content") -> bytes:
    """A chunk with these bytes inside the string of its delta, whatever they are."""
    before = f'{HEAD}"delta":{{"{field}":"'.encode()
    return before + inside + b'"},"finish_reason":null}]}'


def completed(inside: bytes) -> bytes:
    before = b'{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"'
    return before + inside + b'","finish_reason":null}]}'


def parser(parse: Callable[..., Any]) -> StreamParser:
    return StreamParser(lambda state, frame: parse(state, frame, chat(stream=True), deployment("a")))


def events_of(blocks: Sequence[bytes], parse: Callable[..., Any], *, runs: bool) -> tuple[list[Event], str]:
    """The events up to one that cannot be read, and why it cannot."""
    reader = parser(parse)
    events: list[Event] = []
    for block in blocks:
        at = 0
        while at < len(block):
            known = reader.template if runs else None
            if known is not None and (run := known.run_at(block, at)) is not None:
                event, at = run
                events.append(event)
                continue
            frame, at = frame_at(block, at)
            try:
                events += reader.events_of(frame) if frame is not None else ()
            except AttemptError as failed:
                return events, failed.failure.reason
    return events, ""


def check_same(
    blocks: Sequence[bytes], parse: Callable[..., Any] = openai_stream.parse_stream
) -> list[Event]:
    """Returns the events with runs."""
    found, why = events_of(blocks, parse, runs=True)
    plain, why_plain = events_of(blocks, parse, runs=False)
    assert why == why_plain
    rest = iter(plain)
    for event in found:
        bodies = event.body.split(BETWEEN)
        those = [next(rest) for _ in bodies]
        assert [one.body for one in those] == bodies
        assert event.text == "".join([one.text for one in those])
        assert {one._replace(body=b"", text="") for one in those} == {event._replace(body=b"", text="")}
    assert list(rest) == []
    bodies = [body for event in plain if event.body for body in event.body.split(BETWEEN)]
    assert folded(found) == folded(plain) == fold(map(orjson.loads, bodies))
    assert recorded(found) == recorded(plain)
    assert encode(*[event.body for event in found if event.body]) == encode(
        *[event.body for event in plain if event.body]
    )
    return found


def folded(events: Sequence[Event]) -> Any:
    return fold(chunks_of(events))


def recorded(events: Sequence[Event]) -> Any:
    transcript = Transcript()
    transcript.add(events)
    return transcript.choices()


def blocks_of(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The whole events as a decoder finds them when the bytes arrive cut at these places."""
    decoder = Decoder()
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [*[decoder.feed(raw[a:b]) for a, b in pairwise(edges)], decoder.flush()]


inside = st.one_of(
    st.sampled_from(
        [b"word ", b"a", b"\\n", b'\\"', b"\\\\", b"\\/", "é".encode(), "😀".encode(), b"\\u00e9"]
    ),
    st.sampled_from(
        [b"", b'"', b"\\", b"\x00", b"\n", b"\x7f", b"\\ud83d", b"\\ude00", b"\xf0\x9f", b"\x98\x80"]
    ),
    st.text(max_size=6).map(lambda text: orjson.dumps(text)[1:-1]),
    st.binary(max_size=4),
    st.sampled_from([b"@", b"content", b'"},"finish_reason":null}]}', b"data: ", b"\n\ndata: "]),
)
usual = st.builds(lambda text: b"data: " + chunk(text) + b"\n\n", inside)
odd = st.sampled_from(
    [
        b": comment\n\n",
        b"data:" + chunk(b"close") + b"\n\n",
        b"data: " + chunk(b"crlf") + b"\r\n\r\n",
        b"data: " + chunk(b"three") + b"\n\n\n",
        b"event: x\ndata: " + chunk(b"named") + b"\n\n",
        b"data: " + chunk(b"with an id") + b"\nid: 1\n\n",
        b"id: 1\ndata: " + chunk(b"after an id") + b"\n\n",
        b"data: " + chunk(b"two").replace(b",", b",\ndata: ", 1) + b"\n\n",
        b"data: " + chunk(b"why", "reasoning_content") + b"\n\n",
        b"data: " + chunk(b"x" * 20_000) + b"\n\n",
        b"data: " + chunk(b"other").replace(b'"created":1', b'"created":2') + b"\n\n",
        b"data: " + FINISH + b"\n\n",
        b"data: " + USAGE + b"\n\n",
        b"data: " + ROLE + b"\n\n",
        b"data: " + DONE + b"\n\n",
        b"data: {}\n\n",
        b"\n",
        b"\xef\xbb\xbf",
    ]
)


@given(
    st.lists(st.one_of(usual, usual, usual, odd), max_size=16),
    st.lists(st.integers(0, 5000), max_size=12),
)
def test_any_stream_cut_anywhere_reads_the_same_with_and_without_runs(
    pieces: list[bytes], cuts: list[int]
) -> None:
    learned = b"".join([b"data: %b\n\n" % one for one in (ROLE, chunk(b"one"), chunk(b"two"))])
    check_same(blocks_of(learned + b"".join(pieces), cuts))


@example([b"a", b"", b"b"], "content")
@given(st.lists(inside, max_size=12), st.sampled_from(["content", "reasoning_content", "refusal", "role"]))
def test_so_does_any_field_of_a_delta(texts: list[bytes], field: str) -> None:
    check_same([encode(chunk(b"one", field), chunk(b"two", field), *[chunk(one, field) for one in texts])])


@given(st.lists(inside, max_size=12))
def test_so_do_text_completions(texts: list[bytes]) -> None:
    bodies = [completed(one) for one in (b"one", b"two", *texts)]
    check_same([encode(*bodies)], completions.parse_stream)


@given(st.binary(max_size=60))
def test_any_bytes_behind_a_chunk_read_the_same(tail: bytes) -> None:
    learned = encode(chunk(b"one"), chunk(b"two"), chunk(b"three"))
    check_same(blocks_of(learned[:-2] + tail + learned, []))


def test_chunks_that_arrive_together_are_one_event() -> None:
    texts = [b"word ", b"\\n", "é".encode(), b'\\"quoted\\"']
    events = check_same(
        [encode(ROLE, *[chunk(one) for one in (b"one", b"two", *texts)], FINISH, USAGE, DONE)]
    )
    (run,) = [event for event in events if BETWEEN in event.body]
    assert run.text == 'word \né"quoted"'
    assert run.body == BETWEEN.join([chunk(one) for one in texts])


@pytest.mark.parametrize(
    ("first", "second"),
    [(b"\xf0\x9f", b"\x98\x80"), (b"\\ud83d", b"\\ude00"), (b"\\", b"n"), (b"\\u00", b"e9")],
)
def test_a_character_that_begins_in_one_chunk_and_ends_in_the_next_is_in_no_run(
    first: bytes, second: bytes
) -> None:
    events = check_same([encode(*[chunk(one) for one in (b"one", b"two", b"three", first, second, b"four")])])
    assert not any(first in event.body and BETWEEN in event.body for event in events)


def test_a_chunk_with_other_strings_in_its_delta_is_folded_one_by_one() -> None:
    bodies = [chunk(one).replace(b'"delta":{', b'"delta":{"note":"n",') for one in (b"a", b"b", b"c", b"d")]
    events = check_same([encode(*bodies)])
    assert any(BETWEEN in event.body for event in events)
