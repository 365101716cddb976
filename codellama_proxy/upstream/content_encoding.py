"""Decodes compressed bodies: some upstreams compress although the request says `identity`. No I/O."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.upstream.http import ResponseBody

MAX_OUTPUT_BYTES = 64 << 10
"""Maximum size of a decoded piece, so that the reader can stop before a decompression bomb expands."""
MAX_INPUT_BYTES = 64 << 10
"""Maximum compressed input decoded at a time."""

_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_RAW_DEFLATE = -zlib.MAX_WBITS

Inflate = Callable[[bytes], Iterator[bytes]]


def decoder_of(content_encoding: str) -> Inflate | None:
    """The decoder for a body with this header; `None` if it is not encoded.

    Raises `AttemptError` content_encoding for encodings other than gzip and deflate (RFC 9110, 8.4.1).
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    named = [name for name in names if name not in ("", "identity")]
    if not named:
        return None
    if len(named) > 1 or named[0] not in ("gzip", "x-gzip", "deflate"):
        raise AttemptError(failures.disguised("content_encoding", status=200))
    return _inflate()


class DecodedBody(ResponseBody):
    """The decoded body, in pieces of at most `MAX_OUTPUT_BYTES`. Raises `AttemptError` content_encoding."""

    __slots__ = ("_body", "_inflate", "_outputs")

    def __init__(self, body: ResponseBody, inflate: Inflate) -> None:
        self._body = body
        self._inflate = inflate
        self._outputs: Iterator[bytes] = iter(())
        """What is left of the piece received last."""

    async def __anext__(self) -> bytes:
        while (output := next(self._outputs, None)) is None:
            self._outputs = self._outputs_of(await anext(self._body))
        return output

    def _outputs_of(self, piece: bytes) -> Iterator[bytes]:
        for at in range(0, len(piece), MAX_INPUT_BYTES):
            yield from self._inflate(piece[at : at + MAX_INPUT_BYTES])


def _inflate() -> Inflate:
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    begun = False

    def decompress(data: bytes) -> bytes:
        nonlocal stream, begun
        try:
            output = stream.decompress(data, MAX_OUTPUT_BYTES)
        except zlib.error:
            if begun:
                raise
            stream = zlib.decompressobj(_RAW_DEFLATE)  # some servers leave out the zlib header
            output = stream.decompress(data, MAX_OUTPUT_BYTES)
        begun = True
        return output

    def inflate(data: bytes) -> Iterator[bytes]:
        try:
            while data and not stream.eof:
                if output := decompress(data):
                    yield output
                data = stream.unconsumed_tail
        except zlib.error:
            raise AttemptError(failures.disguised("content_encoding", status=200)) from None

    return inflate
