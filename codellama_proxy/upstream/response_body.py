"""Reads bodies of responses: piece by piece, whole, or as far as is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.content_encoding import decoded, decoder_of

MAX_ANSWER = 16 << 20
"""Bytes of a whole answer, and of one error body times a hundred."""
MAX_ERROR = 64 << 10


def pieces_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body, decoded. Raises `AttemptError` where that is not possible."""
    pieces: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]  # always an async stream here
    inflate = decoder_of(response.headers.get("content-encoding", ""))
    return pieces if inflate is None else decoded(pieces, inflate)


class Body:
    """The pieces of a body, whose beginning can be looked at before it is read."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._seen: list[bytes] = []

    async def beginning(self) -> bytes:
        """As much as is needed to see what it begins with beside white space."""
        head = b""
        while not forms.beginning(head) and len(head) < MAX_ERROR:
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


async def read_whole(chunks: AsyncIterator[bytes], limit: int, come: list[bytes]) -> bytes:
    """The whole body. Raises `AttemptError` beyond `limit` bytes; `come` gets its pieces."""
    size = 0
    async for piece in chunks:
        come.append(piece)
        size += len(piece)
        if size > limit:
            raise AttemptError(failures.too_large(answered=cut_answers.is_answer(b"".join(come))))
    return b"".join(come)


async def read_start(response: httpx2.Response, limit: int) -> bytes:
    """The body as far as `limit` bytes, or a piece more; empty if it cannot be decoded."""
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
