"""Presents an answer that takes several requests as one response.

A dialect provides the requests as a generator that yields `Step`s and receives a `StepResponse` for each; it is pure,
and this module does the I/O. A plain answer is the last body. In a stream each body becomes an event of type `whole`;
the bytes of steps that stream are passed on between them, so that the dialect's `parse_stream` reads everything. An
exchange that is abandoned cancels the answer at the upstream if the step has a `give_up` request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from codellama_proxy.core.types import HttpRequest, Step, StepResponse, Steps
from codellama_proxy.upstream.http import BytesBody, Response, ResponseBody, TransportError

CANCEL_SECONDS = 2.0
"""Time limit for cancelling an abandoned answer at the upstream, and for an optional step."""

Send = Callable[[HttpRequest], Awaitable[Response]]
Read = Callable[[Response], Awaitable[bytes]]
"""Reads a whole body; raises when it is too large."""
Sleep = Callable[[float], Awaitable[None]]


async def open_multi_step(
    send: Send, read: Read, steps: Steps, *, stream: bool, sleep: Sleep = asyncio.sleep
) -> Response:
    """One response for all steps; closing it closes them all."""
    exchange = MultiStepResponse(send, read, steps, sleep)
    try:
        return await (exchange.streamed() if stream else exchange.whole())
    except BaseException:
        await exchange.aclose()
        raise


class MultiStepResponse(ResponseBody):
    """The steps in progress; as a stream, the bytes they yield."""

    def __init__(self, send: Send, read: Read, steps: Steps, sleep: Sleep) -> None:
        self._send = send
        self._read = read
        self._steps = steps
        self._sleep = sleep
        self._step: Step | None = next(steps)
        """The step to send or in progress; `None` at the end."""
        self._inner: Response | None = None
        """The streamed response of the present step."""
        self._held = b""
        self._ended = False

    async def whole(self) -> Response:
        """The last response; any success status becomes 200."""
        result = await self._read_step(await self._begin())
        while self._step is not None:
            result = await self._read_step(await self._begin())
        return _response(result)

    async def streamed(self) -> Response:
        """A streamed response, or the plain response of the first step if that failed."""
        result = await self._read_step(await self._begin())
        if not _succeeded(result.status):
            return _response(result)
        self._held = _event(result.body)
        return Response(200, {"content-type": "text/event-stream"}, self)

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
                await self._inner.body.aclose()
        finally:
            if step is not None and step.give_up is not None:
                await self._cancel(step.give_up)

    async def _cancel(self, request: HttpRequest) -> None:
        with suppress(TimeoutError, TransportError):
            async with asyncio.timeout(CANCEL_SECONDS):
                response = await self._send(request)
                await response.body.aclose()

    # --- one step ------------------------------------------------------------------------------------------

    async def _piece(self, step: Step) -> bytes:
        """The next bytes of the stream; empty if the step has no more."""
        try:
            async with asyncio.timeout(CANCEL_SECONDS if step.optional else None):
                return await self._more()
        except (TimeoutError, TransportError):
            if not step.optional:
                raise
            self._ended = True
            return b""

    async def _more(self) -> bytes:
        if self._inner is None:
            response = await self._begin()
            if not _is_stream(response):
                result = await self._read_step(response)
                return _event(result.body) if _succeeded(result.status) else b""
            self._inner = response
        piece = await anext(self._inner.body, None)
        if piece is None:
            await self._end_of_stream()
        return piece or b""

    async def _end_of_stream(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.body.aclose()
            self._advance(StepResponse(inner.status, inner.headers, b""))

    async def _begin(self) -> Response:
        assert self._step is not None
        if self._step.delay:
            await self._sleep(self._step.delay)
        return await self._send(self._step.request)

    async def _read_step(self, response: Response) -> StepResponse:
        try:
            body = await self._read(response)
        finally:
            await response.body.aclose()
        result = StepResponse(response.status, response.headers, body)
        self._advance(result)
        return result

    def _advance(self, result: StepResponse) -> None:
        try:
            self._step = self._steps.send(result)
        except StopIteration:
            self._step = None


def _succeeded(status: int) -> bool:
    return 200 <= status < 300


def _is_stream(response: Response) -> bool:
    return response.status == 200 and "event-stream" in response.headers.get("content-type", "")


def _response(result: StepResponse) -> Response:
    status = 200 if _succeeded(result.status) else result.status
    headers = {"content-type": "application/json", **_retry_headers(result)}
    return Response(status, headers, BytesBody(result.body))


def _retry_headers(result: StepResponse) -> dict[str, str]:
    """The retry headers, the only headers of the response that are used later."""
    names = ("retry-after", "retry-after-ms")
    return {name: result.headers[name] for name in names if name in result.headers}


def _event(body: bytes) -> bytes:
    """The body as a separate event. Line breaks in JSON are white space and become spaces."""
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return b"\n\nevent: whole\ndata: %s\n\n" % line
