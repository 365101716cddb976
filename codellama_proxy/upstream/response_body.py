"""Reads response bodies: in pieces, whole, or only the beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.content_encoding import DecodedBody, decoder_of
from codellama_proxy.upstream.http import Response, ResponseBody, Sink

MAX_ANSWER_BYTES = 16 << 20
"""Maximum size of a plain answer."""
MAX_ERROR_BYTES = 64 << 10
"""How much of an error body is read."""


def body_of(response: Response) -> ResponseBody:
    """The decoded body. Raises `AttemptError` for an unsupported content encoding."""
    encoding = response.headers.get("content-encoding")
    inflate = decoder_of(encoding) if encoding else None
    return response.body if inflate is None else DecodedBody(response.body, inflate)


class ExaminedBody(ResponseBody):
    """A body whose beginning can be examined before it is read."""

    __slots__ = ("_body", "_seen")

    def __init__(self, body: ResponseBody) -> None:
        self._body = body
        self._seen: list[bytes] = []

    async def beginning(self) -> bytes:
        """The first bytes, including at least one that is not white space, if there is any."""
        head = b""
        while not forms.beginning(head) and len(head) < MAX_ERROR_BYTES:
            piece = await anext(self._body, None)
            if piece is None:
                break
            self._seen.append(piece)
            head += piece
        return head

    async def __anext__(self) -> bytes:
        return self._seen.pop(0) if self._seen else await anext(self._body)

    def is_read(self) -> bool:
        return not self._seen and self._body.is_read()

    async def pour(self, sink: Sink) -> bool:
        while self._seen:
            if not sink(self._seen.pop(0)):
                return True
        return await self._body.pour(sink)

    def ends_chunk(self, piece: bytes) -> bool:
        return not self._seen and self._body.ends_chunk(piece)

    def pass_on(self, relay: Sink) -> None:
        self._body.pass_on(relay)


async def read_whole(body: AsyncIterator[bytes], limit: int, received: list[bytes]) -> bytes:
    """The whole body; its pieces are appended to `received`. Raises `AttemptError` beyond `limit` bytes."""
    size = 0
    async for piece in body:
        received.append(piece)
        size += len(piece)
        if size > limit:
            raise AttemptError(failures.too_large(answered=cut_answers.is_answer(b"".join(received))))
    return b"".join(received)


async def read_start(response: Response, limit: int) -> bytes:
    """At least the first `limit` bytes of the body, in whole pieces; empty if it cannot be decoded."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in body_of(response):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    except AttemptError:
        return b""
    return b"".join(pieces)
