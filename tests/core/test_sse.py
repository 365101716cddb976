"""The SSE decoder: any legal form, any chunking, bounded memory."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.sse import (
    BETWEEN,
    MAX_EVENT_BYTES,
    MAX_LINES,
    Decoder,
    EventTooLargeError,
    Frame,
    encode,
)
from tests.support.cases import each
from tests.support.frames import frames


def decode(*chunks: bytes) -> list[Frame]:
    decoder = Decoder()
    blocks = [*map(decoder.feed, chunks), decoder.flush()]
    return [frame for block in blocks for frame in frames(block)]


@each(
    ("raw", "frames"),
    [
        (b"data: a\n\n", [Frame(b"a")]),
        (b"data:a\n\ndata: b\n\n", [Frame(b"a"), Frame(b"b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [Frame(b"a"), Frame(b"b")]),
        (b"data: a\r\rdata: b\r\r", [Frame(b"a"), Frame(b"b")]),
        (b"data: one\ndata: two\n\n", [Frame(b"one\ntwo")]),
        (b": comment\n\n: another\ndata: a\n\n", [Frame(b"a")]),
        (b"event: ping\ndata: {}\n\n", [Frame(b"{}", "ping")]),
        (b"id: 1\nretry: 10\ndata: a\n\n", [Frame(b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Frame(b"a")]),
        (b"\n\n\n\ndata: a\n\n\n\n", [Frame(b"a")]),
        (b"data:  two spaces\n\n", [Frame(b" two spaces")]),
        (b"data: unfinished", [Frame(b"unfinished")]),
        (b"data\n\n", [Frame(b"")]),
        (b"event: only\n\n", []),
        (b"", []),
    ],
)
def test_every_legal_form_is_read(raw: bytes, frames: list[Frame]) -> None:
    assert decode(raw) == frames
    assert decode(*(raw[i : i + 1] for i in range(len(raw)))) == frames


line = st.sampled_from(
    [b"data: x", b"data:", b"data: \xe4\xb8\x96\xe7\x95\x8c", b": note", b"event: e", b"id: 4", b"", b"junk"]
)
ending = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(
    st.lists(st.tuples(line, ending), max_size=12),
    st.lists(st.integers(0, 200), max_size=20),
    st.booleans(),
)
def test_any_chunking_gives_the_same_frames(
    lines: list[tuple[bytes, bytes]], cuts: list[int], bom: bool
) -> None:
    raw = (b"\xef\xbb\xbf" if bom else b"") + b"".join(text + end for text, end in lines)
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    assert decode(*pieces) == decode(raw)


@given(st.text().filter(lambda text: "\n" not in text and "\r" not in text))
def test_encoded_events_decode_to_the_same(text: str) -> None:
    assert decode(encode(text.encode())) == [Frame(text.encode())]


def test_an_endless_line_is_refused_before_it_fills_the_memory() -> None:
    decoder = Decoder()
    for _ in range(10):
        decoder.feed(b"x" * (MAX_EVENT_BYTES // 10))
    with pytest.raises(EventTooLargeError) as caught:
        decoder.feed(b"x" * (MAX_EVENT_BYTES // 10))
    assert len(caught.value.data) > MAX_EVENT_BYTES
    assert decoder.flush() == b""  # it is not kept a second time


def test_an_event_of_endless_lines_is_refused() -> None:
    with pytest.raises(EventTooLargeError):
        decode(b"data:\n" * (2 * MAX_LINES) + b"\n")


@pytest.mark.parametrize("line", [b"data: ", b"data: x\ndata: ", b"data: \n"])
def test_parsing_time_is_linear(line: bytes) -> None:
    """Takes no time where reading is linear, minutes where it is not."""
    raw = line * 150_000
    with suppress(EventTooLargeError):
        decode(raw[: MAX_EVENT_BYTES - 10] + b"\n:\n\n")


def test_a_body_of_several_events_is_encoded_as_several_events() -> None:
    assert encode(BETWEEN.join((b"a", b"b")), b"c") == encode(b"a", b"b", b"c")
    assert decode(encode(b"a", b"b", b"c")) == [Frame(b"a"), Frame(b"b"), Frame(b"c")]
