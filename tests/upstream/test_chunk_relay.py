"""Chunks that are sent on as they arrive mean what they mean when each is parsed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle, pairwise
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Deployment, Secret, Timeouts
from codellama_proxy.core.sse import BETWEEN, encode
from codellama_proxy.core.types import ChunkOutlet, Event, HttpRequest
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.inbound.messages import MESSAGES
from codellama_proxy.openai_format.folding import chunks_of, fold
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.registry import ADAPTERS, adapter_of
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.chunk_relay import MAX_CHUNK_BYTES, MAX_CHUNKS
from codellama_proxy.upstream.connection import Connection
from codellama_proxy.upstream.event_reader import EventReader
from codellama_proxy.upstream.http import Response
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.timeouts import Deadlines, TaskTimeout
from codellama_proxy.upstream.transport import ConnectionBody
from tests.support.builders import chat, deployment
from tests.support.dialogues import HEAD
from tests.upstream.test_connection import Transport as Socket

SECRET = "sk-a-secret-of-16-characters"
START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Result(NamedTuple):
    written: bytes
    """What the client is sent."""
    noted: list[Event]
    """The events recorded for the client, in their order."""
    charged: str
    """The text recorded for the upstream's call."""
    failed: str
    """The reason."""
    passed_on: int
    """Chunks that were sent on as they arrived."""


class Feed:
    """A transport whose only connection receives these pieces, one in each turn of the event loop."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._tasks: list[Any] = []

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        del request, connect_seconds
        self._connection = connection = Connection()
        connection.connection_made(Socket())  # type: ignore[arg-type]
        self._tasks.append(asyncio.ensure_future(self._feed()))
        await connection.send(b"", b"")
        return Response(
            connection.status,
            connection.headers,
            ConnectionBody(self, None, connection),  # type: ignore[arg-type]  # as much of a transport as it needs
        )

    async def _feed(self) -> None:
        for piece in self._pieces:
            await asyncio.sleep(0)
            if not self._connection.transport.is_closing():
                self._connection.data_received(piece)
        self._connection.connection_lost(None)

    def give_back(self, origin: Any, connection: Connection) -> None:
        del origin
        connection.release()

    async def aclose(self) -> None:
        await asyncio.gather(*self._tasks)


def call(form: str) -> tuple[InferenceRequest, Deployment]:
    """A request, and the deployment that answers it in this form."""
    provider, native = FORMS[form][3], form == "messages"
    relays = frozenset({"messages"}) if native else frozenset[str]()
    where = deployment(
        "a", provider=provider, api_key=Secret(SECRET), timeouts=Timeouts(idle=5.0), relays=relays
    )
    if not native:
        return chat(stream=True), where
    body = {"model": "a", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    return MESSAGES.parse(orjson.dumps(body), dict, "req_1", 0, None), where


async def _relayed(pieces: Sequence[bytes], takes: Sequence[bool] | None, form: str) -> Result:
    asked, where = call(form)
    feed, raw = Feed([START, *pieces]), form == "messages"
    pools, turns = Pools(lambda _: feed), cycle(takes or (True,))
    sent = adapter_of(asked, where).to_request(asked, where)
    written, charged, passed_on = bytearray(), "", 0
    noted: list[Event] = []

    def charge(events: Sequence[Event]) -> None:
        nonlocal charged
        charged += "".join([event.text for event in events])

    def write(chunk: bytes, now: float) -> bool:
        nonlocal passed_on
        assert now > 0
        if not next(turns):
            return False
        while chunk:
            line, rest = chunk.split(b"\r\n", 1)
            size = int(line, 16)
            assert rest[size : size + 2] == b"\r\n"
            written.extend(rest[:size])
            chunk = rest[size + 2 :]
            passed_on += 1
        return True

    def send(events: Sequence[Event]) -> bool:
        written.extend(sent_of(events, raw=raw))
        noted.extend(events)
        return True

    outlet = ChunkOutlet(write, noted.extend, raw=raw) if takes is not None else None
    failed = ""
    try:
        reply = await open_reply(pools, sent, asked, where, 10.0, note=charge)
        send(reply.first)
        try:
            while not reply.ended:
                send(await reply.more(10.0, lambda events: next(turns) and send(events), outlet))
        finally:
            await reply.close()
    except AttemptError as error:
        failed = error.failure.reason
    await pools.close()
    return Result(bytes(written), noted, charged, failed, passed_on)


def check_same(pieces: Sequence[bytes], takes: Sequence[bool] = (True,), form: str = "openai") -> Result:
    """The result, once it is known to be the same without an outlet."""
    found = asyncio.run(_relayed(pieces, takes, form))
    plain = asyncio.run(_relayed(pieces, None, form))
    assert found.written == plain.written
    assert (found.charged, found.failed) == (plain.charged, plain.failed)
    assert [folded(one.noted) for one in (found, plain)] == [folded(plain.noted)] * 2
    assert sent_of(found.noted, raw=form == "messages") == found.written
    assert [event.usage for event in found.noted if event.usage] == [
        event.usage for event in plain.noted if event.usage
    ]
    return found


def sent_of(events: Sequence[Event], *, raw: bool) -> bytes:
    """What a client is sent of these events."""
    if raw:
        return b"".join([event.raw for event in events])
    return encode(*[event.body for event in events if event.body])


def folded(events: Sequence[Event]) -> Any:
    return fold(chunks_of(events))


def openai(inside: bytes, padding: bytes | None = None) -> bytes:
    """An event with these bytes inside the string of its delta, whatever they are."""
    head = orjson.dumps({**HEAD, "choices": [{"index": 0, "delta": {"content": "@"}, "finish_reason": None}]})
    data = head.replace(b"@", inside)
    if padding is not None:
        data = data[:-1] + b',"obfuscation":"%b"}' % padding
    return b"data: %b\n\n" % data


def padded(inside: bytes) -> bytes:
    return openai(inside, b"x" * (len(inside) % 7))


def anthropic(inside: bytes) -> bytes:
    data = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}' % inside
    return b"event: content_block_delta\ndata: %b\n\n" % data


ANTHROPIC_BEGIN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
    b'"model":"claude","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
    b'"text":""}}\n\n'
)
ANTHROPIC_END = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":'
    b'{"output_tokens":9}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)
OPENAI_END = (
    b"data: "
    + orjson.dumps({**HEAD, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    + b"\n\ndata: [DONE]\n\n"
)
FORMS = {
    "openai": (openai, b"", OPENAI_END, "openai_compatible"),
    "padded": (padded, b"", OPENAI_END, "openai_compatible"),
    "anthropic": (anthropic, ANTHROPIC_BEGIN, ANTHROPIC_END, "anthropic"),
    "messages": (anthropic, ANTHROPIC_BEGIN, ANTHROPIC_END, "anthropic"),
}


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def upper(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)


def zeros(data: bytes) -> bytes:
    return b"00%x\r\n%b\r\n" % (len(data), data)


def extended(data: bytes) -> bytes:
    return b"%x;a=b\r\n%b\r\n" % (len(data), data)


def halved(data: bytes) -> bytes:
    return framed(data[: len(data) // 2]) + framed(data[len(data) // 2 :])


def too_long(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data) + 1, data)


inside = st.one_of(
    st.sampled_from([b" word", b"a", b"\\n", b'\\"', b"\\\\", "é".encode(), "😀".encode(), b"\\u00e9"]),
    st.sampled_from([b" word", b" is", b"\\n\\n", b"    ", b"(", SECRET.encode(), b"x" * MAX_CHUNK_BYTES]),
    st.sampled_from(
        [b"", b'"', b"\\", b"\x00", b"\n", b"\x7f", b"\\ud83d", b"\\ude00", b"\xf0\x9f", b"\x98"]
    ),
    st.text(max_size=6).map(lambda text: orjson.dumps(text)[1:-1]),
    st.binary(max_size=4),
    st.sampled_from([b"@", b'","obfuscation":"', b'"},"finish_reason":null}]}', b"\r\n", b"data: "]),
)
framing = st.sampled_from([framed] * 20 + [upper, zeros, extended, halved, too_long])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], str]:
    """A stream in pieces, mostly one for each chunk; and its form."""
    form = draw(st.sampled_from(sorted(FORMS)))
    event, begin, end, _ = FORMS[form]
    events = [begin, event(b"one"), event(b" two")]
    for one in draw(st.lists(inside, max_size=14)):
        odd = draw(st.sampled_from([event] * 12 + [openai, anthropic, padded]))
        comment = draw(st.sampled_from([b""] * 9 + [b": comment\n\n", b"\n", b"id: 1\n\n"]))
        events.append(comment + odd(one))
    if draw(st.booleans()):
        events.append(end)
    frames = [framed(data) for data in events[:3] if data]
    frames += [draw(framing)(data) for data in events[3:]]
    if draw(st.booleans()):
        frames.append(b"0\r\n\r\n")
    raw = b"".join(frames)
    edges, at = {0, len(raw)}, 0
    for frame in frames:
        at += len(frame)
        edges.add(at)
    edges -= set(draw(st.lists(st.sampled_from(sorted(edges)), max_size=8))) - {0, len(raw)}
    edges |= {place % (len(raw) + 1) for place in draw(st.lists(st.integers(0, 9000), max_size=4))}
    return [raw[a:b] for a, b in pairwise(sorted(edges))], form


@settings(max_examples=150, deadline=None)
@given(streams(), st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=6).filter(any))
def test_any_stream_in_any_pieces_is_the_same_with_and_without_an_outlet(
    stream: tuple[list[bytes], str], takes: list[bool]
) -> None:
    pieces, form = stream
    check_same(pieces, takes, form)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_usual_chunks_are_sent_on_as_they_arrive(form: str) -> None:
    event, begin, end, _ = FORMS[form]
    words = [b" the", b"\\n    ", b'\\"x\\"', "é".encode(), b" end"]
    learned = [framed(one) for one in (begin, event(b"one"), event(b" two"), event(b" three")) if one]
    found = check_same(
        [*learned, *[framed(event(word)) for word in words], framed(end), b"0\r\n\r\n"], form=form
    )
    assert found.passed_on >= len(words)
    assert found.charged.startswith('one two three the\n    "x"é end')


@pytest.mark.parametrize("form", sorted(FORMS))
def test_usual_chunks_that_arrive_together_are_sent_on_together(form: str) -> None:
    event, begin, end, _ = FORMS[form]
    learned = [framed(one) for one in (begin, event(b"one"), event(b" two"), event(b" three")) if one]
    words = [framed(event(b" %d" % number)) for number in range(MAX_CHUNKS)]
    unusual = framed(event(b"")) + words[0]
    pieces = [
        *learned,
        b"".join(words[:9]),
        words[9],
        b"".join(words[10:12]),
        unusual,
        *words[:2],
        framed(end),
    ]
    found = check_same(pieces, form=form)
    assert found.passed_on >= 12
    check_same([*learned, *words[:3], b"".join(words), framed(end)], form=form)  # too many for one event


@example(b"\\ud83d", b"\\ude00")
@example(b"\xf0\x9f", b"\x98\x80")
@given(inside, inside)
def test_no_chunk_is_sent_on_that_has_no_meaning_of_its_own(first: bytes, second: bytes) -> None:
    learned = [framed(openai(word)) for word in (b"one", b" two", b" three")]
    check_same([*learned, framed(openai(first)), framed(openai(second)), framed(OPENAI_END)])


def test_a_long_stream_is_noted_in_runs() -> None:
    count = 3 * MAX_CHUNKS
    pieces = [framed(openai(b" %d" % number)) for number in range(count)]
    found = check_same([*pieces, framed(OPENAI_END), b"0\r\n\r\n"])
    assert found.passed_on > count * 0.95
    assert max([event.body.count(BETWEEN) + 1 for event in found.noted]) == MAX_CHUNKS


def test_a_secret_is_removed_from_a_stream_that_is_sent_on() -> None:
    words = [b"one", b" two", b" three", b" four", SECRET.encode(), b" five", b" six"]
    found = check_same([*[framed(openai(word)) for word in words], framed(OPENAI_END)])
    assert SECRET.encode() not in found.written
    assert found.passed_on > 0


def test_a_chunk_that_differs_behind_its_text_is_not_sent_on() -> None:
    words = [openai(word) for word in (b"one", b" two", b" three", b" four")]
    ended = openai(b" five").replace(b"null", b'"x" ')
    found = check_same([framed(one) for one in (*words, ended, words[0], OPENAI_END)])
    assert [event.finish_reason for event in found.noted if event.finish_reason] == ["stop", "stop"]


@pytest.mark.parametrize("begun", [b"data: {\n", b"event: x\n", b"data: {}\n\ndata", SECRET[:9].encode()])
def test_an_event_or_a_secret_that_has_begun_is_not_left_behind(begun: bytes) -> None:
    words = [openai(word) for word in (b"one", b" two", b" three", b" four")]
    check_same([framed(one) for one in (*words, words[0] + begun, words[1], words[2], OPENAI_END)])
    check_same([framed(one) for one in (*words, begun, words[1], words[2], OPENAI_END)])


def test_chunks_that_are_sent_on_count_for_the_size_of_the_stream() -> None:
    event = openai(b"x" * (MAX_CHUNK_BYTES - 250))
    where, asked = deployment("a"), chat(stream=True)

    async def use() -> EventReader:
        reader = EventReader(asked, where, ADAPTERS[where.provider], lambda _: None)
        watch = TaskTimeout(Deadlines())
        for word in (b"one", b" two"):
            reader.feed(openai(word))
        before, chunks = reader.received, 0
        relay = reader.relay(ChunkOutlet(lambda _, now: now > 0, list), watch)
        assert relay is not None
        while relay.feed(framed(event)):
            chunks += 1
        reader.relayed(relay)
        assert reader.received - before == chunks * len(event) > 0
        return reader

    asyncio.run(use())


def test_a_large_chunk_that_only_looks_like_one_event_is_not_sent_on() -> None:
    """A chunk of 0x2000 bytes begins with the bytes of a usual chunk, framing included, and arrives in two pieces."""
    learned = [framed(openai(word)) for word in (b"one", b" two", b" three", b" four")]
    imitation = framed(openai(b" five"))
    begun = b"2000\r\n"
    pieces = [*learned, begun + b"data: {}\n\n", imitation, imitation]
    found = check_same(pieces)
    assert imitation not in found.written


def test_the_rest_of_a_chunk_is_not_taken_for_a_chunk() -> None:
    """Whatever the state of the parser, a piece that could be the rest of an earlier chunk proves nothing."""
    connection = Connection()
    connection.connection_made(Socket())  # type: ignore[arg-type]

    async def use() -> list[bool]:
        asked = asyncio.ensure_future(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(START + b"2\r\na")
        await asked
        ends: list[bool] = []

        def sink(piece: bytes) -> bool:
            ends.append(connection.ends_chunk(piece))
            return True

        pouring = asyncio.ensure_future(connection.pour(sink))
        await asyncio.sleep(0)
        connection.data_received(b"1\r\n1\r\n")  # the rest of the first, and the head of the second
        connection.data_received(b"b\r\n")
        connection.data_received(b"1\r\nc\r\n")
        connection.connection_lost(None)
        await asyncio.wait([pouring])
        assert pouring.exception() is not None
        return ends

    assert asyncio.run(use()) == [False, False, False, True]
