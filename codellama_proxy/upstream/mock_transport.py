"""The built-in mock as a transport: no network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.providers import mock


class MockTransport(httpx2.AsyncBaseTransport):
    """Plays the scripts of the built-in mock."""

    def __init__(self, behaviour: Mock) -> None:
        self._behaviour = behaviour

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        played = mock.script(await request.aread(), self._behaviour, mock.endpoint_of(request.url.path))
        return httpx2.Response(played.status, headers=dict(played.headers), stream=_MockStream(played))


class _MockStream(httpx2.AsyncByteStream):
    def __init__(self, played: mock.Script) -> None:
        self._pieces = iter(played.pieces)
        self._cut = played.cut

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        delay, piece = next(self._pieces, (0.0, b""))
        # Yield even without a delay: a long answer must not block the event loop.
        await asyncio.sleep(delay)
        if piece:
            return piece
        if self._cut:
            raise httpx2.RemoteProtocolError("the mock cut its answer")
        raise StopAsyncIteration
