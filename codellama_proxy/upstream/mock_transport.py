"""The built-in mock as a transport: no network."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from codellama_proxy.core.snapshot import Mock
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.providers.mock import script as mock
from codellama_proxy.upstream.http import Response, ResponseBody, TransportError


class MockTransport:
    """Plays the scripts of the built-in mock."""

    def __init__(self, behaviour: Mock) -> None:
        self._behaviour = behaviour

    async def send(self, request: HttpRequest, connect_seconds: float) -> Response:
        del connect_seconds
        endpoint = mock.endpoint_of(urlsplit(request.url).path)
        played = mock.script(request.body, self._behaviour, endpoint)
        return Response(played.status, dict(played.headers), _MockBody(played))

    async def aclose(self) -> None:
        return


class _MockBody(ResponseBody):
    def __init__(self, played: mock.Script) -> None:
        self._pieces = iter(played.pieces)
        self._cut = played.cut

    async def __anext__(self) -> bytes:
        delay, piece = next(self._pieces, (0.0, b""))
        # Yield even without a delay: a long answer must not block the event loop.
        await asyncio.sleep(delay)
        if piece:
            return piece
        if self._cut:
            raise TransportError("the mock cut its answer")
        raise StopAsyncIteration
