"""An answer that takes several requests, made to look like one response.

A dialect tells the requests as a generator that yields `Step`s and is sent what came back (`StepResponse`): it
decides, purely; this module acts. Of a plain answer the last body counts. In a stream each body is one event of
type `whole`, between the bytes of those steps that answer with streams of their own, so that the dialect's
`parse_stream` reads them all. An exchange that is left before its end tells the upstream so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import httpx2

from codellama_proxy.core.types import HttpRequest, Step, StepResponse, Steps

FAREWELL = 2.0
"""Seconds for telling an upstream that its answer is not wanted any more, and for a step that is optional."""

Send = Callable[[HttpRequest], Awaitable[httpx2.Response]]
Read = Callable[[httpx2.Response], Awaitable[bytes]]
"""Reads a whole body; raises when it is too large."""
Sleep = Callable[[float], Awaitable[None]]


async def open_multi_step(
    send: Send, read: Read, steps: Steps, *, stream: bool, sleep: Sleep = asyncio.sleep
) -> httpx2.Response:
    """The response that the steps amount to; who closes it closes them all."""
    exchange = MultiStepResponse(send, read, steps, sleep)
    try:
        return await (exchange.streamed() if stream else exchange.whole())
    except BaseException:
        await exchange.aclose()
        raise


class MultiStepResponse(httpx2.AsyncByteStream):
    """The steps in progress; as a stream, the bytes they yield."""

    def __init__(self, send: Send, read: Read, steps: Steps, sleep: Sleep) -> None:
        self._send = send
        self._read = read
        self._steps = steps
        self._sleep = sleep
        self._step: Step | None = next(steps)
        """The one to be made, or being made; `None` at the end."""
        self._inner: httpx2.Response | None = None
        """A step's own stream, while it lasts."""
        self._pieces: AsyncIterator[bytes] | None = None
        self._held = b""
        self._ended = False

    async def whole(self) -> httpx2.Response:
        """The last answer. Any success is one: callers know only 200."""
        answered = await self._whole_step(await self._begin())
        while self._step is not None:
            answered = await self._whole_step(await self._begin())
        return _response(answered)

    async def streamed(self) -> httpx2.Response:
        """A stream, unless the first step already failed."""
        answered = await self._whole_step(await self._begin())
        if not _fine(answered.status):
            return _response(answered)
        self._held = _event(answered.body)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._held = self._held, b""
        while not piece:
            if self._step is None or self._ended:
                raise StopAsyncIteration
            piece = await self._piece(self._step)
        return piece

    async def aclose(self) -> None:
        step, self._step = self._step, None
        try:
            if self._inner is not None:
                await self._inner.aclose()
        finally:
            if step is not None and step.give_up is not None:
                await self._say_farewell(step.give_up)

    async def _say_farewell(self, request: HttpRequest) -> None:
        with suppress(TimeoutError, httpx2.TransportError):
            async with asyncio.timeout(FAREWELL):
                response = await self._send(request)
                await response.aclose()

    # --- one step ------------------------------------------------------------------------------------------

    async def _piece(self, step: Step) -> bytes:
        """More of the stream; nothing where a step ends without a word."""
        try:
            async with asyncio.timeout(FAREWELL if step.optional else None):
                return await self._more()
        except (TimeoutError, httpx2.TransportError):
            if not step.optional:
                raise
            self._ended = True
            return b""

    async def _more(self) -> bytes:
        if self._pieces is None:
            response = await self._begin()
            if not _is_stream(response):
                answered = await self._whole_step(response)
                return _event(answered.body) if _fine(answered.status) else b""
            self._inner, self._pieces = response, aiter(response.stream)  # type: ignore[arg-type]  # always async
        piece = await anext(self._pieces, None)
        if piece is None:
            await self._end_of_stream()
        return piece or b""

    async def _end_of_stream(self) -> None:
        inner, self._inner, self._pieces = self._inner, None, None
        if inner is not None:
            await inner.aclose()
            self._advance(StepResponse(inner.status_code, inner.headers, b""))

    async def _begin(self) -> httpx2.Response:
        assert self._step is not None
        if self._step.delay:
            await self._sleep(self._step.delay)
        return await self._send(self._step.request)

    async def _whole_step(self, response: httpx2.Response) -> StepResponse:
        try:
            body = await self._read(response)
        finally:
            await response.aclose()
        answered = StepResponse(response.status_code, response.headers, body)
        self._advance(answered)
        return answered

    def _advance(self, answered: StepResponse) -> None:
        try:
            self._step = self._steps.send(answered)
        except StopIteration:
            self._step = None


def _fine(status: int) -> bool:
    return 200 <= status < 300


def _is_stream(response: httpx2.Response) -> bool:
    return response.status_code == 200 and "event-stream" in response.headers.get("content-type", "")


def _response(answered: StepResponse) -> httpx2.Response:
    status = 200 if _fine(answered.status) else answered.status
    headers = {"content-type": "application/json", **_patience(answered)}
    return httpx2.Response(status, headers=headers, content=answered.body)


def _patience(answered: StepResponse) -> dict[str, str]:
    """When to come again: the only headers of an answer that still matter."""
    names = ("retry-after", "retry-after-ms")
    return {name: answered.headers[name] for name in names if name in answered.headers}


def _event(body: bytes) -> bytes:
    """One event of its own, whatever came before it. Line ends in JSON are only white space."""
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"\n\nevent: whole\ndata: %s\n\n" % line
