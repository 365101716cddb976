"""Responses by direct calls are the bytes that ASGI's messages make; only their division into writes differs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.web.connection import EXCHANGE, Exchange
from tests.server.test_http_protocol import CUTS, Connection, cut
from tests.support.cases import each

TOKENS = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name not in ("content-length", "transfer-encoding", "connection")
)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=20
)


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    pieces: Sequence[bytes]
    """At least one; the last may be empty."""


@st.composite
def responses(draw: st.DrawFn) -> Response:
    headers = draw(st.dictionaries(TOKENS, VALUES.map(str.strip), min_size=1, max_size=5))
    pieces = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
    if draw(st.booleans()):
        headers["content-length"] = str(sum(map(len, pieces)))
    if draw(st.booleans()):
        headers["connection"] = draw(st.sampled_from(["close", "keep-alive"]))
    lines = HeaderLines("".join([f"{name}: {value}\r\n" for name, value in headers.items()]))
    given_headers = draw(st.sampled_from([headers, lines]))
    return Response(draw(st.sampled_from([200, 400, 429, 502])), given_headers, pieces)


class Answering(Connection):
    """Answers every request with one response: by ASGI's messages, or by direct calls, perhaps by only one."""

    def __init__(self, response: Response, *, direct: bool, whole: bool = False) -> None:
        self.direct = {b"/": self._app} if direct else {}
        super().__init__()
        self._response = response
        self._whole = whole
        self.bodies: list[bytes] = []
        self.directs: list[bool] = []

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers, pieces = self._response
        exchange = scope.pop(EXCHANGE, None)
        self.directs.append(exchange is not None)
        body = exchange.take_body() if exchange is not None else None
        self.bodies.append(await _received(receive) if body is None else body)
        if exchange is not None:
            try:
                self._answer(exchange)
            finally:
                exchange.finish()
            return
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for place, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": place < len(pieces)})

    def _answer(self, exchange: Exchange) -> None:
        status, headers, pieces = self._response
        if self._whole:
            assert isinstance(headers, HeaderLines)
            exchange.respond(status, headers, b"".join(pieces))
            return
        exchange.begin(status, headers)
        for place, piece in enumerate(pieces, 1):
            exchange.write(piece, last=place == len(pieces))


async def _received(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def written(
    response: Response, request: Sequence[bytes], *, direct: bool, whole: bool = False
) -> tuple[Any, ...]:
    """The bytes that the client gets, whether its connection was closed, and the bodies that were read.

    Without interim responses: for a body that has already arrived, ASGI asks all the same.
    """

    async def run() -> tuple[Any, ...]:
        connection = Answering(response, direct=direct, whole=whole)
        try:
            await connection.feed(request)
            return (
                connection.transport.sent.replace(CONTINUE, b""),
                connection.transport.closing,
                connection.bodies,
            )
        finally:
            connection.lose()

    return asyncio.run(run())


@st.composite
def pipelined_posts(draw: st.DrawFn) -> bytes:
    wish = draw(st.sampled_from(["", "", "connection: close\r\n"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    return f"POST / HTTP/{version}\r\nhost: a\r\n{wish}content-length: 2\r\n\r\nhi".encode()


@given(responses(), st.sampled_from(["1.1", "1.0"]), st.sampled_from(["", "connection: close\r\n"]))
def test_both_ways_write_the_same_bytes(response: Response, version: str, wish: str) -> None:
    request = f"POST / HTTP/{version}\r\nhost: a\r\n{wish}content-length: 2\r\n\r\nhi".encode()
    direct = written(response, [request], direct=True)
    assert direct == written(response, [request], direct=False)
    assert direct[2] == [b"hi"]


@given(responses(), st.booleans(), st.sampled_from(["", "connection: upgrade\r\nupgrade: h2c\r\n"]))
def test_a_response_to_http_1_0_has_no_chunks(response: Response, direct: bool, offer: str) -> None:
    request = f"POST / HTTP/1.0\r\n{offer}content-length: 0\r\n\r\n".encode()
    sent, closed, _ = written(response, [request], direct=direct)
    head, _, body = sent.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"".join(response.pieces)
    assert closed


@given(responses(), st.lists(pipelined_posts(), min_size=1, max_size=3))
def test_a_response_in_one_write_has_the_same_bytes(response: Response, requests: list[bytes]) -> None:
    status, headers, pieces = response
    own = {name: value for name, value in headers.items() if name != "connection"}
    own["content-length"] = str(sum(map(len, pieces)))
    lines = HeaderLines("".join([f"{name}: {value}\r\n" for name, value in own.items()]))
    response = Response(status, lines, pieces)
    request = b"".join(requests)
    assert written(response, [request], direct=True, whole=True) == written(response, [request], direct=True)


def test_a_connection_closes_without_a_complete_response() -> None:
    class Broken(Answering):
        def _answer(self, exchange: Exchange) -> None:
            exchange.begin(200, {"content-length": "2"})
            exchange.write(b"a", last=False)

    async def run() -> None:
        connection = Broken(Response(200, {}, [b""]), direct=True)
        await connection.feed([b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"])
        assert connection.transport.sent.endswith(b"\r\n\r\na")
        assert connection.transport.closing
        connection.lose()

    asyncio.run(run())


@st.composite
def pipelined(draw: st.DrawFn) -> bytes:
    head = "{} {} HTTP/{}\r\nhost: a\r\n{}"
    version, offer = st.sampled_from(["1.1", "1.1", "1.0"]), "connection: upgrade\r\nupgrade: h2c\r\n"
    target = draw(st.sampled_from(["/", "/?beta=true", "/x", "//", "/%2f", "/?a?b", "/#a"]))
    more = draw(
        st.sampled_from(["", "", "origin: x\r\n", offer, "expect: 100-continue\r\n", "connection: close\r\n"])
    )
    start = head.format(draw(st.sampled_from(["POST", "POST", "PUT"])), target, draw(version), more).encode()
    body = draw(st.binary(max_size=20))
    if draw(st.booleans()) or b"1.0" in start:
        return start + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return start + b"transfer-encoding: chunked\r\n\r\n" + chunk + b"0\r\nx-trailer: 1\r\n\r\n"


@given(responses(), st.lists(pipelined(), min_size=1, max_size=3).map(b"".join), CUTS)
@settings(max_examples=200, deadline=None)
def test_both_ways_read_and_write_the_same_however_requests_arrive(
    response: Response, requests: bytes, cuts: list[int]
) -> None:
    pieces = cut(requests, cuts)
    assert written(response, pieces, direct=True) == written(response, pieces, direct=False)


@each(
    ("head", "direct"),
    [
        ("POST / HTTP/1.1", True),
        ("POST /?beta=true HTTP/1.1", True),
        ("GET / HTTP/1.1", False),
        ("POST /x HTTP/1.1", False),
        ("POST / HTTP/1.1\r\norigin: http://a", False),
    ],
)
def test_posts_to_the_endpoints_are_direct(head: str, direct: bool) -> None:
    async def run() -> list[bool]:
        connection = Answering(Response(200, {"content-length": "0"}, [b""]), direct=True)
        await connection.feed([f"{head}\r\nhost: a\r\n\r\n".encode()])
        connection.lose()
        return connection.directs

    assert asyncio.run(run()) == [direct]


def test_the_head_is_written_with_the_first_piece() -> None:
    async def run() -> int:
        response = Response(200, {"content-length": "2"}, [b"ok"])
        connection = Answering(response, direct=True)
        await connection.feed([b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"])
        connection.lose()
        return connection.transport.writes

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0", "a\x7f"])
def test_a_control_character_in_a_header_is_refused(value: str) -> None:
    refused: list[ValueError] = []

    class Noting(Answering):
        def _answer(self, exchange: Exchange) -> None:
            with pytest.raises(ValueError, match="control character") as found:
                super()._answer(exchange)
            refused.append(found.value)

    async def run() -> None:
        connection = Noting(Response(200, {"x-a": value, "content-length": "0"}, [b""]), direct=True)
        await connection.feed([b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"])
        assert connection.transport.sent == b""
        connection.lose()

    asyncio.run(run())
    assert len(refused) == 1
