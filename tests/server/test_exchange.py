"""Responses by direct calls are the bytes that ASGI's messages make; only their division into writes differs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from codellama_proxy.web.connection import EXCHANGE
from tests.server.test_http_protocol import Connection

TOKENS = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name not in ("content-length", "transfer-encoding", "connection")
)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=20
)


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
    return Response(draw(st.sampled_from([200, 400, 429, 502])), headers, pieces)


class Answering(Connection):
    """Answers every request with one response, by ASGI's messages or by direct calls."""

    def __init__(self, response: Response, *, direct: bool) -> None:
        super().__init__()
        self._response = response
        self._direct = direct
        self.bodies: list[bytes | None] = []

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers, pieces = self._response
        if self._direct:
            exchange = scope[EXCHANGE]
            self.bodies.append(exchange.body())
            exchange.begin(status, headers)
            for place, piece in enumerate(pieces, 1):
                exchange.write(piece, last=place == len(pieces))
            return
        self.bodies.append((await receive())["body"])
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        for place, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": place < len(pieces)})


def written(response: Response, request: bytes, *, direct: bool) -> tuple[Any, ...]:
    """The bytes that the client gets, whether its connection was closed, and the bodies that were read."""

    async def run() -> tuple[Any, ...]:
        connection = Answering(response, direct=direct)
        try:
            await connection.feed([request])
            return connection.transport.sent, connection.transport.closing, connection.bodies
        finally:
            connection.lose()

    return asyncio.run(run())


@given(responses(), st.sampled_from(["1.1", "1.0"]), st.sampled_from(["", "connection: close\r\n"]))
def test_both_ways_write_the_same_bytes(response: Response, version: str, wish: str) -> None:
    request = f"POST / HTTP/{version}\r\nhost: a\r\n{wish}content-length: 2\r\n\r\nhi".encode()
    direct = written(response, request, direct=True)
    assert direct == written(response, request, direct=False)
    assert direct[2] == [b"hi"]


def test_the_head_is_written_with_the_first_piece() -> None:
    async def run() -> int:
        response = Response(200, {"content-length": "2"}, [b"ok"])
        connection = Answering(response, direct=True)
        await connection.feed([b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"])
        connection.lose()
        return connection.transport.writes

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\0", "a\x7f"])
def test_a_control_character_in_a_header_is_refused(value: str) -> None:
    async def run() -> None:
        connection = Connection()
        errors: list[Exception] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                scope[EXCHANGE].begin(200, {"x-a": value, "content-length": "0"})
            except ValueError as error:
                errors.append(error)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        connection.protocol.app = app
        await connection.feed([b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"])
        connection.lose()
        assert len(errors) == 1

    asyncio.run(run())
