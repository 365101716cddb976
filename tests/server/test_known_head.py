"""Heads that a connection repeats are recognised; what they decide is never taken from another head."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from codellama_proxy.server.known_head import KnownHead
from codellama_proxy.web.client_headers import ClientHeaders
from codellama_proxy.web.connection import EXCHANGE
from tests.server.test_http_protocol import Connection

HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-length", b"authorization", b"x-api-key", b"host", b"expect"]),
        st.sampled_from([b"1", b"2", b"Bearer sk-1", b"Bearer sk-2", b"0" * 40]),
    ),
    max_size=4,
    unique_by=lambda header: header[0],
)
STARTS = st.tuples(st.just(b"POST"), st.sampled_from([b"/", b"/?beta"]), st.sampled_from(["1.0", "1.1"]))


@given(STARTS, HEADERS, st.lists(st.tuples(STARTS, HEADERS), max_size=4))
def test_a_head_is_known_if_it_differs_in_the_content_length_and_one_credential_only(
    start: tuple[bytes, bytes, str],
    headers: list[tuple[bytes, bytes]],
    others: list[tuple[tuple[bytes, bytes, str], list[tuple[bytes, bytes]]]],
) -> None:
    credentials = {b"authorization", b"x-api-key"}
    ignored = {b"content-length"}
    if len(credentials & dict(headers).keys()) == 1:
        ignored |= credentials

    def compared(found: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes | None]]:
        return [(name, None if name in ignored else value) for name, value in found]

    def secret_size(found: list[tuple[bytes, bytes]]) -> int:
        return sum(len(value) for name, value in found if name in credentials)

    head = KnownHead(start, b"/", headers, 100)
    for other, found in others:
        is_same = other == start and compared(found) == compared(headers)
        is_short = all(name != b"content-length" or len(value) < 20 for name, value in found)
        is_known = head.is_like(other, found)
        assert is_known == (is_same and is_short and secret_size(found) == secret_size(headers))
        if is_known:
            assert head.client_headers.credential() == ClientHeaders(found).credential()
            assert head.client_headers.session() == ClientHeaders(found).session()
            assert {**head.client_headers.as_text(), "content-length": ""} == {
                **ClientHeaders(found).as_text(),
                "content-length": "",
            }


class Asking(Connection):
    """Takes down the credential and the content length of each request."""

    def __init__(self) -> None:
        self.direct = {b"/": self._direct}
        super().__init__()
        self.asked: list[tuple[str | None, bytes | None, bool]] = []

    async def _direct(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope.pop(EXCHANGE)
        headers = dict(scope["headers"])
        exchange.client_headers.check_body_kind()
        self.asked.append(
            (
                exchange.client_headers.credential(),
                headers.get(b"content-length"),
                exchange is not None and exchange.take_body() == b"x" * int(headers[b"content-length"]),
            )
        )
        exchange.begin(200, {"content-length": "0"})
        exchange.write(b"", last=True)


@given(
    st.lists(
        st.tuples(st.sampled_from(["sk-1", "sk-2", "sk-10"]), st.integers(0, 20)), min_size=2, max_size=6
    )
)
def test_each_request_of_a_connection_has_its_own_credential_and_length(asked: list[tuple[str, int]]) -> None:
    async def run() -> list[tuple[str | None, bytes | None, bool]]:
        connection = Asking()
        try:
            for key, size in asked:
                head = f"host: a\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
                request = f"POST / HTTP/1.1\r\n{head}content-length: {size}\r\n\r\n{'x' * size}"
                await connection.feed([request.encode()])
            return connection.asked
        finally:
            connection.lose()

    assert asyncio.run(run()) == [(key, b"%d" % size, True) for key, size in asked]
