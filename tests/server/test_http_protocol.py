"""Which requests a connection's bytes hold: what the framing says, however they are cut and whatever they offer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.server.http_protocol import MAX_PIPELINED_BYTES, Protocol
from codellama_proxy.web.connection import ClientTimeouts
from tests.support.cases import each

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


class Seen(NamedTuple):
    method: str
    path: str
    body: bytes


class Transport(asyncio.Transport):
    """The socket's side of a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent = b""
        self.writes = 0
        self.closing = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.writes += 1

    def write_eof(self) -> None:
        self.sent += b""

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Connection:
    """The protocol over such a transport, with an app that takes down each request whose body came whole."""

    direct: Mapping[bytes, ASGIApp] = {}

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.refused: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        quiet = {"log_config": None, "access_log": False, "proxy_headers": False}
        config = uvicorn.Config(self._app, loop="none", ws="none", interface="asgi3", **quiet)
        config.load()
        self.transport = Transport()
        self.protocol = Protocol(
            config,
            ServerState(),
            {},
            timeouts=ClientTimeouts(),
            max_body=lambda: 32_000_000,
            malformed=self._refused,
            direct=self.direct,
        )
        self.protocol.connection_made(self.transport)

    def _refused(self, request_id: str, error: ProxyError) -> None:
        self.refused.append((request_id, error.status))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.seen.append(Seen(scope["method"], scope["path"], body))
        await self.gate.wait()
        head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
        await send(head)
        await send({"type": "http.response.body", "body": b""})

    async def feed(self, pieces: Sequence[bytes], *, slowly: bool = True) -> list[Seen]:
        for piece in pieces:
            if self.transport.closing:
                break
            self.protocol.data_received(piece)
            if slowly:
                await _turns(6)
        await _turns(200)
        return self.seen

    def lose(self) -> None:
        self.protocol.connection_lost(None)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def requests_in(pieces: Sequence[bytes], *, slowly: bool = True) -> list[Seen]:
    async def run() -> list[Seen]:
        connection = Connection()
        try:
            return await connection.feed(pieces, slowly=slowly)
        finally:
            connection.lose()

    return asyncio.run(run())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


# --- well-formed requests -------------------------------------------------------------------------

OFFERS = (
    "",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n",
    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "Upgrade: TLS/1.0, HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\n",
    "Upgrade: h2c\r\nUpgrade: h3\r\nConnection: keep-alive\r\nConnection: upgrade\r\n",
    "Upgrade: h2c\r\n",
    "Connection: Upgrade\r\n",
    "uPGRADE:\r\nConnection: Upgrade\r\n",
)
BODIES = st.sampled_from([b"", b"{}", b"0\r\n\r\n", b"\r\n", SMUGGLED, b"5\r\n" + SMUGGLED, b"\x00\xff" * 40])


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    extension = draw(st.sampled_from([b"", b";a=b", b';q="x;y"', b";flag"]))
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"]))
    parts = [piece for piece in cut(body, draw(st.lists(st.integers(0, 100), max_size=2))) if piece]
    sizes = [b"%X%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join([*sizes, b"0", extension, b"\r\n", trailer, b"\r\n"])


@st.composite
def well_formed(draw: st.DrawFn) -> tuple[bytes, Seen]:
    method = draw(st.sampled_from(["POST", "GET", "PUT", "DELETE", "OPTIONS", "QUERY"]))
    path = f"/{draw(st.integers(0, 9))}"
    offer = draw(st.sampled_from(OFFERS))
    framing = draw(st.sampled_from(["length", "chunks", "nothing"]))
    body = b"" if framing == "nothing" else draw(BODIES)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{offer}"
    if framing == "length":
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, Seen(method, path, body)
    if framing == "chunks":
        coded = draw(chunked(body))
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + coded, Seen(method, path, body)
    return f"{head}\r\n".encode(), Seen(method, path, b"")


CUTS = st.lists(st.integers(0, 2000), max_size=8)
H2C = f"POST /1 HTTP/1.1\r\nHost: x\r\n{OFFERS[1]}Content-Length: {len(SMUGGLED)}\r\n\r\n".encode() + SMUGGLED


@given(requests=st.lists(well_formed(), min_size=1, max_size=5), cuts=CUTS, slowly=st.booleans())
@example(requests=[(H2C, Seen("POST", "/1", SMUGGLED))], cuts=[], slowly=True)
@example(requests=[(H2C, Seen("POST", "/1", SMUGGLED))], cuts=list(range(len(H2C))), slowly=False)
@settings(max_examples=150, deadline=None)
def test_the_parsed_requests_match_the_framing(
    requests: list[tuple[bytes, Seen]], cuts: list[int], slowly: bool
) -> None:
    data = b"".join(sent for sent, _ in requests)
    assert requests_in(cut(data, cuts), slowly=slowly) == [seen for _, seen in requests]


@given(
    first=well_formed(), last=st.sampled_from(["Connection: close", "Connection: close, Upgrade"]), cuts=CUTS
)
@settings(max_examples=30, deadline=None)
def test_no_request_follows_connection_close(first: tuple[bytes, Seen], last: str, cuts: list[int]) -> None:
    closing = f"GET /end HTTP/1.1\r\nHost: x\r\n{last}\r\nUpgrade: h2c\r\n\r\n".encode()
    expected = [first[1], Seen("GET", "/end", b"")]
    assert requests_in(cut(first[0] + closing + SMUGGLED, cuts)) == expected


def test_no_request_follows_an_answer_that_closes_the_connection() -> None:
    first = b"POST /1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    second = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert requests_in([first + b"{", b"}" + second + b"{", b"}"]) == [Seen("POST", "/1", b"{}")]


# --- doubtful ones --------------------------------------------------------------------------------

POST = b"POST /bad HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
DOUBTFUL = {
    "a length and chunks": CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length in hexadecimal": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "no length": POST + b"Content-Length:\r\n\r\n",
    "an endless length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "gzip and chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked and gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity, then chunked": POST
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked on a line of its own": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /bad HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": POST + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "a line end without CR": POST + b"X-A: b\nContent-Length: 0\r\n\r\n",
    "a line end without LF": POST + b"X-A: b\rContent-Length: 0\r\n\r\n",
    "a chunk size that ends in LF": CHUNKED + b"\r\n2\n{}\r\n0\r\n\r\n",
    "a chunk that ends in LF": CHUNKED + b"\r\n2\r\n{}\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"\r\n2\r\n{}}}\r\n0\r\n\r\n",
    "a chunk size with a prefix": CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "an endless chunk size": CHUNKED + b"\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "LF in a chunk's extension": CHUNKED + b"\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
    "a length among the trailers": CHUNKED + b"\r\n2\r\n{}\r\n0\r\nContent-Length: 40\r\n\r\n",
    "a coding among the trailers": CHUNKED + b"\r\n2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "no host": b"POST /bad HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": POST + b"Host: y\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2": b"POST /bad HTTP/2.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /bad\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel to a path": b"CONNECT /bad HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "a foreign target": b"GET http://x/bad HTTP/1.1\r\nHost: x\r\n\r\n",
}


@each("offer", [OFFERS[0], OFFERS[1]])
@each("name", DOUBTFUL)
def test_an_ambiguous_request_is_refused_and_ends_the_connection(name: str, offer: str) -> None:
    line, _, rest = DOUBTFUL[name].partition(b"\r\n")
    data = line + b"\r\n" + offer.encode() + rest

    @given(first=well_formed(), cuts=CUTS)
    @settings(max_examples=4, deadline=None)
    def holds(first: tuple[bytes, Seen], cuts: list[int]) -> None:
        assert requests_in(cut(first[0] + data + SMUGGLED, cuts)) == [first[1]]

    holds()
    assert requests_in([data + SMUGGLED]) == []


@each("name", ["no host", "two hosts", "gzip and chunked", "HTTP/2", "a foreign target", "two lengths"])
def test_a_refused_head_is_answered_also_behind_an_answered_request(name: str) -> None:
    async def run() -> Connection:
        connection = Connection()
        await connection.feed([SMUGGLED, DOUBTFUL[name]])
        connection.lose()
        return connection

    found = asyncio.run(run())
    assert len(found.seen) == 1
    assert [line for line in found.transport.sent.split(b"\r\n") if line.startswith(b"HTTP/")] == [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 400 Bad Request",
    ]
    assert [status for _, status in found.refused] == [400]


@given(
    requests=st.lists(well_formed(), min_size=1, max_size=3),
    at=st.integers(0, 2000),
    new=st.binary(max_size=3) | st.sampled_from([b"\r\n", b"\n", b" ", b"0", b":", SMUGGLED]),
    gone=st.integers(0, 3),
    cuts=CUTS,
)
@settings(max_examples=150, deadline=None)
def test_parsing_does_not_depend_on_chunk_boundaries(
    requests: list[tuple[bytes, Seen]], at: int, new: bytes, gone: int, cuts: list[int]
) -> None:
    data = b"".join(sent for sent, _ in requests)
    at %= len(data)
    data = data[:at] + new + data[at + gone :]
    whole = requests_in([data])
    pieces = requests_in(cut(data, cuts))
    # A fault may come to light before the app has begun with what came in the same piece.
    shorter, longer = sorted([whole, pieces], key=len)
    assert longer[: len(shorter)] == shorter
    assert len(longer) - len(shorter) <= len(requests)


# --- what is behind a request ---------------------------------------------------------------------


def held(behind: bytes) -> tuple[bool, list[Any]]:
    """Whether a connection still reads while a request is being answered, and what it saw after the answer."""

    async def run() -> tuple[bool, list[Any]]:
        connection = Connection()
        connection.gate.clear()
        await connection.feed([SMUGGLED])
        await connection.feed(cut(behind, range(0, len(behind), 60_000)))
        paused = connection.transport.paused
        connection.gate.set()
        await _turns(50)
        connection.lose()
        return not paused, [seen.path for seen in connection.seen]

    return asyncio.run(run())


def test_reading_continues_while_a_request_is_answered() -> None:
    large = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    assert held(large) == (True, ["/smuggled", "/2"])


def test_pipelined_bytes_are_bounded() -> None:
    many = b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n" * (MAX_PIPELINED_BYTES // 20)
    assert held(many) == (True, ["/smuggled"])


def test_reading_continues_after_a_large_last_chunk() -> None:
    async def run() -> bool:
        connection = Connection()
        connection.gate.clear()
        await connection.feed(
            [b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", b"x" * 100_001]
        )
        assert [len(seen.body) for seen in connection.seen] == [100_001]
        paused = connection.transport.paused
        connection.gate.set()
        await _turns(20)
        connection.lose()
        return paused

    assert asyncio.run(run()) is False
