"""Reads response bodies: in pieces, whole, or only the beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.connection import Sink
from codellama_proxy.upstream.content_encoding import decoded, decoder_of
from codellama_proxy.upstream.transport import ConnectionBody

MAX_ANSWER_BYTES = 16 << 20
"""Maximum size of a plain answer."""
MAX_ERROR_BYTES = 64 << 10
"""How much of an error body is read."""


def pieces_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The decoded body. Raises `AttemptError` for an unsupported content encoding."""
    pieces: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]  # always an async stream here
    inflate = decoder_of(response.headers.get("content-encoding", ""))
    return pieces if inflate is None else decoded(pieces, inflate)


class Body:
    """The pieces of a body; its beginning can be examined before it is read."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._seen: list[bytes] = []

    async def beginning(self) -> bytes:
        """The first bytes, including at least one that is not white space, if there is any."""
        head = b""
        while not forms.beginning(head) and len(head) < MAX_ERROR_BYTES:
            piece = await anext(self._pieces, None)
            if piece is None:
                break
            self._seen.append(piece)
            head += piece
        return head

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._seen.pop(0) if self._seen else await anext(self._pieces)

    async def pour(self, sink: Sink) -> bool:
        """Gives the pieces to `sink` until it takes no more. Returns `False` at the body's end.

        Where they come from a connection as they are, the task sleeps meanwhile: the connection calls `sink`.
        """
        while self._seen:
            if not sink(self._seen.pop(0)):
                return True
        if isinstance(self._pieces, ConnectionBody):
            return await self._pieces.pour(sink)
        async for piece in self._pieces:
            if not sink(piece):
                return True
        return False


async def read_whole(chunks: AsyncIterator[bytes], limit: int, received: list[bytes]) -> bytes:
    """The whole body; its pieces are appended to `received`. Raises `AttemptError` beyond `limit` bytes."""
    size = 0
    async for piece in chunks:
        received.append(piece)
        size += len(piece)
        if size > limit:
            raise AttemptError(failures.too_large(answered=cut_answers.is_answer(b"".join(received))))
    return b"".join(received)


async def read_start(response: httpx2.Response, limit: int) -> bytes:
    """At least the first `limit` bytes of the body, in whole pieces; empty if it cannot be decoded."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in pieces_of(response):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    except AttemptError:
        return b""
    return b"".join(pieces)
