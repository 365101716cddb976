"""Connections to upstreams: whatever comes, in whatever pieces, is one right answer or a named error."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.upstream.connection import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_UNREAD_BYTES,
    Connection,
    ExchangeError,
)


class Transport:
    """The other side of a protocol, without a socket."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.paused = False

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.written += b"".join(pieces)

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Outcome(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    error: str
    reusable: bool


def exchange(pieces: list[bytes], *, lost: BaseException | None = None) -> Outcome:
    """What a connection makes of the pieces, and then of the end of the connection unless the answer is whole."""
    return asyncio.run(_exchange(pieces, lost))


async def _exchange(pieces: list[bytes], lost: BaseException | None) -> Outcome:
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    sending = asyncio.ensure_future(connection.send(b"GET / HTTP/1.1\r\n\r\n", b""))
    await asyncio.sleep(0)
    for piece in pieces:
        if not transport.closing:
            connection.data_received(piece)
    if not connection.complete:
        connection.connection_lost(lost)
    body, error, status = b"", "", 0
    headers: dict[str, str] = {}
    try:
        await asyncio.wait_for(sending, 30)
        status, headers = connection.status, connection.headers
        while piece := await asyncio.wait_for(connection.read(), 30):
            body += piece
    except ExchangeError as failed:
        error = type(failed).__name__
    return Outcome(status, headers, body, error, connection.release())


def joined(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The fields as a mapping; repeated ones are one list (RFC 9110, 5.3)."""
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(name.decode(), []).append(value.decode())
    return {name: ", ".join(values) for name, values in found.items()}


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


CUTS = st.lists(st.integers(0, 5000), max_size=12)
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(
    lambda name: b"x-" + name.encode()
)
VALUE = st.text("abc xyz0123456789;=,", max_size=20).map(lambda text: text.strip().encode())
FIELDS = st.lists(st.tuples(TOKEN, VALUE), max_size=5)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, Outcome]:
    """A right answer in one of the three framings of RFC 9112, and what it says."""
    status, fields = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503])), draw(FIELDS)
    body = draw(st.binary(max_size=3000))
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    interim = draw(
        st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nlink: x\r\n\r\n" * 2])
    )
    if framing == "length":
        fields, sent = [*fields, (b"content-length", b"%d" % len(body))], body
    elif framing == "chunked":
        extension = draw(st.sampled_from([b"", b";a=b"]))
        trailer = draw(st.sampled_from([b"", b"x-sum: 1\r\n"]))
        pieces = [b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in cut(body, draw(CUTS))]
        fields, sent = (
            [*fields, (b"transfer-encoding", b"chunked")],
            b"".join(pieces) + b"0\r\n" + trailer + b"\r\n",
        )
    else:
        sent = body
    head = b"HTTP/1.1 %d Some Reason\r\n" % status + b"".join(b"%b: %b\r\n" % field for field in fields)
    return interim + head + b"\r\n" + sent, Outcome(status, joined(fields), body, "", framing != "end")


@given(answers(), CUTS)
def test_a_valid_answer_is_read_with_any_chunking(answer: tuple[bytes, Outcome], at: list[int]) -> None:
    data, expected = answer
    assert exchange(cut(data, at)) == expected
    assert by_h11(data) == (expected.status, expected.headers, expected.body), "an independent reader agrees"


def by_h11(data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    reader.receive_data(b"")
    status, headers, body = 0, dict[str, str](), b""
    while type(event := reader.next_event()) is not h11.EndOfMessage:
        if isinstance(event, h11.Response):
            status, headers = (
                event.status_code,
                joined([(bytes(name), bytes(value)) for name, value in event.headers]),
            )
        elif isinstance(event, h11.Data):
            body += event.data
    return status, headers, body


@given(answers(), st.integers(0, 5000), CUTS)
def test_a_truncated_answer_is_never_complete(
    answer: tuple[bytes, Outcome], length: int, at: list[int]
) -> None:
    data, whole = answer
    data = data[: length % len(data)]
    got = exchange(cut(data, at))
    assert not got.reusable
    if got.error == "":
        assert (got.status, got.reusable) == (whole.status, whole.reusable), (
            "only the connection's end can end it"
        )
        assert whole.body.startswith(got.body)


@given(answers(), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4), CUTS, CUTS)
def test_parsing_does_not_depend_on_chunk_boundaries(
    answer: tuple[bytes, Outcome], changes: list[tuple[int, int]], one: list[int], other: list[int]
) -> None:
    data = bytearray(answer[0])
    for place, byte in changes:
        data[place % len(data)] = byte
    assert exchange(cut(bytes(data), one)) == exchange(cut(bytes(data), other))


@given(answers(), st.binary(min_size=1, max_size=200), CUTS)
def test_bytes_after_an_answer_are_not_the_next_answer(
    answer: tuple[bytes, Outcome], surplus: bytes, at: list[int]
) -> None:
    data, whole = answer
    if not whole.reusable or not surplus.strip(b"\r\n"):  # the parser skips empty lines between answers
        return
    got = exchange([*cut(data + surplus, at)])
    assert not got.reusable
    assert got._replace(reusable=True) == whole


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (HEAD, b"x-a: " + b"a" * 1000 + b"\r\n"),
        (HEAD + b"x-a: ", b"a" * 1000),
        (b"HTTP/1.1 200 ", b"O" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x-a: " + b"a" * 1000 + b"\r\n"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5;", b"a" * 1000),
    ],
)
def test_bytes_outside_the_body_are_bounded(begin: bytes, again: bytes) -> None:
    got = exchange([begin, *[again] * (MAX_HEAD_BYTES // len(again) + 2)])
    assert (got.error, got.reusable) == ("ProtocolError", False)


@pytest.mark.parametrize(
    ("data", "lost", "error"),
    [
        (b"", None, "ProtocolError"),
        (b"", ConnectionResetError(), "ConnectionLostError"),
        (HEAD + b"content-length: 5\r\n\r\nabc", None, "ProtocolError"),
        (HEAD + b"\r\nabc", ConnectionResetError(), "ConnectionLostError"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
            None,
            "ProtocolError",
        ),
        (HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", None, "ProtocolError"),
        (b"SSH-2.0-OpenSSH\r\n", None, "ProtocolError"),
        (HEAD + b"x-a: " + b"a" * MAX_FIELD_BYTES + b"\r\n\r\n", None, "ProtocolError"),
        (HEAD + b"x-a: b\r\n" * (MAX_FIELDS + 1) + b"\r\n", None, "ProtocolError"),
    ],
)
def test_every_invalid_answer_has_a_specific_error(
    data: bytes, lost: BaseException | None, error: str
) -> None:
    assert exchange([data] if data else [], lost=lost).error == error


def test_reading_pauses_while_the_body_is_not_consumed() -> None:
    async def use() -> None:
        connection, transport = Connection(), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        sending = asyncio.ensure_future(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(HEAD + b"\r\n")
        await sending
        for _ in range(MAX_UNREAD_BYTES // 1000 + 1):
            assert not transport.paused
            connection.data_received(b"x" * 1000)
        assert transport.paused
        assert len(await connection.read()) > MAX_UNREAD_BYTES
        assert not transport.paused

    asyncio.run(use())


# --- a body that is poured into a function -------------------------------------------------------------------


async def _poured(
    pieces: list[bytes], lost: BaseException | None, stops: list[bool], turns: list[bool]
) -> Outcome:
    """As `_exchange`, by `pour`: the function stops where `stops` says, the task gets its turn where `turns` says."""
    connection, transport = Connection(), Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    body, error = b"", ""
    stopping = iter(stops)

    def sink(piece: bytes) -> bool:
        nonlocal body
        assert piece
        body += piece
        return not next(stopping, False)

    async def take() -> tuple[int, dict[str, str]]:
        nonlocal error
        try:
            await connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
            while await connection.pour(sink):
                pass
        except ExchangeError as failed:
            error = type(failed).__name__
        return connection.status, connection.headers

    taking = asyncio.ensure_future(take())
    await asyncio.sleep(0)
    for piece, turn in zip(pieces, [*turns, *[True] * len(pieces)], strict=False):
        if not transport.closing:
            connection.data_received(piece)
        if turn:
            await asyncio.sleep(0)
    if not connection.complete:
        connection.connection_lost(lost)
    status, headers = await asyncio.wait_for(taking, 30)
    return Outcome(status if body or not error else 0, headers, body, error, connection.release())


FLAGS = st.lists(st.booleans(), max_size=12)


@given(answers(), st.integers(0, 9000), CUTS, FLAGS, FLAGS)
def test_a_body_is_poured_as_it_is_read(
    answer: tuple[bytes, Outcome], length: int, at: list[int], stops: list[bool], turns: list[bool]
) -> None:
    data, _ = answer
    pieces = cut(data[:length], at)
    read, poured = exchange(pieces), asyncio.run(_poured(pieces, None, stops, turns))
    assert (poured.body, poured.error, poured.reusable) == (read.body, read.error, read.reusable)


class SinkError(Exception):
    pass


@pytest.mark.parametrize("at_once", [True, False])
def test_what_the_function_raises_is_raised_to_who_waits(at_once: bool) -> None:
    async def use() -> None:
        connection = Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        sending = asyncio.ensure_future(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(HEAD + b"\r\n" + (b"x" if at_once else b""))
        await sending

        def sink(_: bytes) -> bool:
            raise SinkError

        pouring = asyncio.ensure_future(connection.pour(sink))
        await asyncio.sleep(0)
        if not at_once:
            connection.data_received(b"x")
        with pytest.raises(SinkError):
            await asyncio.wait_for(pouring, 30)

    asyncio.run(use())


def test_nothing_is_poured_after_its_task_was_cancelled() -> None:
    async def use() -> None:
        connection = Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        sending = asyncio.ensure_future(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(HEAD + b"\r\n")
        await sending
        got: list[bytes] = []
        pouring = asyncio.ensure_future(connection.pour(lambda piece: got.append(piece) is None))
        await asyncio.sleep(0)
        connection.data_received(b"before")
        pouring.cancel()
        connection.data_received(b"after")
        await asyncio.gather(pouring, return_exceptions=True)
        assert got == [b"before"]
        assert await connection.read() == b"after"

    asyncio.run(use())


def test_what_ends_a_connection_after_the_function_has_stopped_is_raised_later() -> None:
    async def use() -> None:
        connection = Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        sending = asyncio.ensure_future(connection.send(b"", b""))
        await asyncio.sleep(0)
        connection.data_received(HEAD + b"\r\n")
        await sending
        pouring = asyncio.ensure_future(connection.pour(lambda _: False))
        await asyncio.sleep(0)
        connection.data_received(b"last")
        connection.connection_lost(ConnectionResetError())
        assert await pouring
        with pytest.raises(ExchangeError):
            await connection.pour(lambda _: True)

    asyncio.run(use())
