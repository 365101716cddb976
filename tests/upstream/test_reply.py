"""Streams over real sockets, taken outside the task that waits for them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_proxy.core.snapshot import Timeouts
from codellama_proxy.core.sse import BETWEEN, MAX_EVENT_BYTES
from codellama_proxy.core.types import ChunkOutlet, Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.registry import ADAPTERS
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.pools import Pools
from tests.support.builders import chat, deployment
from tests.support.client_fold import cut
from tests.support.dialogues import chunk, sse

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = [f"word{i} " for i in range(20)]
TEXT = "".join(WORDS)
CHUNKS = [
    sse(chunk({"role": "assistant", "content": ""})),
    *[sse(chunk({"content": word})) for word in WORDS],
    sse(chunk({}, "stop")),
    b"data: [DONE]\n\n",
]
STREAM = b"".join(CHUNKS)
Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def read(
    play: Play, takes: Sequence[bool] = (True,), idle: float = 5.0, *, outlet: bool = False
) -> tuple[list[Event], list[Event], str]:
    """The events taken or returned in their order, those that were taken, and the reason of the failure.

    `takes`: whether each batch is taken, again and again; `outlet`: whether chunks may be sent on as they arrive.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            await play(writer)
            await reader.read()  # until the other side has closed
        writer.close()

    served: list[Any] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    where = deployment("a", base_url=f"http://127.0.0.1:{port}/v1", timeouts=Timeouts(idle=idle))
    pools, asked, turns = Pools(), chat(stream=True), cycle(takes)
    reply = await open_reply(pools, ADAPTERS[where.provider].to_request(asked, where), asked, where, 10.0)
    events, taken = list(reply.first), []

    def take(batch: Sequence[Event]) -> bool:
        if not next(turns):
            return False
        events.extend(batch)
        taken.extend(batch)
        return True

    def note(batch: Sequence[Event]) -> None:
        events.extend(batch)
        taken.extend(batch)

    to = ChunkOutlet(lambda _, now: now > 0, note) if outlet else None
    reason = ""
    try:
        while not reply.ended:
            events.extend(await reply.more(10.0, take, to))
    except AttemptError as failed:
        reason = failed.failure.reason
    finally:
        await reply.close()
        await pools.close()
        await asyncio.wait(served)
        server.close()
    return events, taken, reason


def text(events: Sequence[Event]) -> str:
    return "".join([event.text for event in events])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5000), max_size=10),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_stream_is_the_same_however_it_arrives_and_is_taken(
    at: list[int], takes: list[bool], slowly: bool
) -> None:
    async def play(writer: asyncio.StreamWriter) -> None:
        for piece in cut(STREAM, at):
            writer.write(framed(piece))
            await asyncio.sleep(0.001 if slowly else 0)
        writer.write(b"0\r\n\r\n")

    events, _, reason = asyncio.run(read(play, takes))
    bodies = [orjson.loads(body) for event in events for body in event.body.split(BETWEEN)]
    said = [body["choices"][0]["delta"].get("content") for body in bodies]
    assert (reason, said) == ("", ["", *WORDS, None])
    assert text(events) == TEXT


@pytest.mark.parametrize("outlet", [False, True])
@pytest.mark.parametrize("takes", [[True], [False], [True, False]])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("reset", "broken_connection"),
        ("ended", "broken_connection"),
        ("complete", "cut_stream"),
        ("silent", "idle_timeout"),
    ],
)
def test_a_stream_that_breaks_in_the_middle_of_an_event_fails_after_what_it_said(
    how: str, reason: str, takes: list[bool], *, outlet: bool
) -> None:
    async def play(writer: asyncio.StreamWriter) -> None:
        for piece in CHUNKS[:11]:
            writer.write(framed(piece))
            await asyncio.sleep(0.002)
        writer.write(framed(CHUNKS[11][:40]))
        await asyncio.sleep(0.01)
        if how == "reset":
            writer.transport.abort()
        elif how == "ended":
            writer.close()
        elif how == "complete":
            writer.write(b"0\r\n\r\n")

    events, taken, failed = asyncio.run(read(play, takes, idle=0.5 if how == "silent" else 20, outlet=outlet))
    assert (text(events), failed) == ("".join(WORDS[:10]), reason)
    assert bool(taken) is (True in takes)


@pytest.mark.parametrize("outlet", [False, True])
def test_each_piece_extends_the_idle_timeout(*, outlet: bool) -> None:
    async def play(writer: asyncio.StreamWriter) -> None:
        for piece in CHUNKS:
            writer.write(framed(piece))
            await asyncio.sleep(0.06)
        writer.write(b"0\r\n\r\n")

    events, taken, reason = asyncio.run(read(play, idle=1.0, outlet=outlet))  # the pauses together are longer
    assert (text(events), reason) == (TEXT, "")
    assert text(taken).count("word") > len(WORDS) / 2
    assert any(BETWEEN in event.body for event in taken) is outlet


def test_a_refused_event_is_not_kept() -> None:
    """Without the garbage collector: a cycle would keep the event until it runs."""

    async def too_large(writer: asyncio.StreamWriter) -> None:
        for piece in (CHUNKS[1], b"data: ", *[bytes(1 << 16)] * (MAX_EVENT_BYTES >> 16), b"x"):
            writer.write(framed(piece))
            await writer.drain()

    async def kept() -> int:
        assert (await read(too_large))[2] == "too_large"
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            started = tracemalloc.get_traced_memory()[0]
            assert (await read(too_large))[2] == "too_large"
            return tracemalloc.get_traced_memory()[0] - started
        finally:
            tracemalloc.stop()
            gc.enable()

    assert asyncio.run(kept()) < MAX_EVENT_BYTES // 4
