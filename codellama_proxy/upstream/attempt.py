"""One attempt: a request to one deployment, up to the first event with content. The only module that calls providers.

`open_reply` returns a `Reply` whose first events have arrived (the commit point) or raises `AttemptError`; every
transport error becomes a `Failure`. A plain answer is a stream of one event. `Reply.more` returns the rest in batches
of events that arrived together.
"""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache

import httpx2

from codellama_proxy import __version__
from codellama_proxy.core.masking import Clean, mask_for
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.registry import MULTI_STEP
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.multi_step import Send, Sleep, open_multi_step
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.reply import Note, Reply, no_note, text_events
from codellama_proxy.upstream.response_body import (
    MAX_ANSWER_BYTES,
    MAX_ERROR_BYTES,
    Body,
    pieces_of,
    read_start,
    read_whole,
)
from codellama_proxy.upstream.timeouts import TaskTimeout
from codellama_proxy.upstream.transport_failure import failure_of

ANSWER_STATUSES = frozenset({200, 201, 202, 203, 206})
"""Statuses whose body is read as an answer."""
HEADERS = {"user-agent": f"codellama-proxy/{__version__}", "accept-encoding": "identity"}


async def open_reply(
    pools: Pools,
    sent: HttpRequest,
    request: InferenceRequest,
    deployment: Deployment,
    budget: float,
    sleep: Sleep = asyncio.sleep,
    note: Note = no_note,
) -> Reply:
    """Sends `sent`, the dialect's form of `request`, and waits at most `budget` seconds for the first event.

    `note` is called with every event as it arrives, even if the answer fails later.
    Raises `AttemptError`; its message contains no secret of this deployment.
    """
    pool = pools.of(deployment)
    transport = pool.take()
    body: httpx2.AsyncByteStream | None = None
    reply: Reply | None = None

    async def send(one: HttpRequest) -> httpx2.Response:
        return await transport.handle_async_request(_request(one, deployment, budget))

    watch = TaskTimeout()
    received: list[bytes] = []
    """The pieces of a plain answer that is being read."""

    async def close() -> None:
        watch.close()
        try:
            if body is not None:
                await body.aclose()
        finally:
            pools.give_back(pool)

    url = sent.url

    def clean() -> Clean:  # lives as long as the stream, and must not keep the request's body
        return mask_for(deployment, url, _personal(request))

    own = deployment.timeouts.first_token if request.stream else deployment.timeouts.answer
    now = asyncio.get_running_loop().time()
    first = now + min(own, budget)
    try:
        with watch.until(first):
            response = await _respond(send, sent, request, deployment, sleep, received)
            body = response.stream  # type: ignore[assignment]  # always an async stream here
            reply = Reply(request, deployment, close, sent.dropped, watch, clean, note)
            stream = await _receive(reply, response, received, first, asked=request.stream)
        if stream is not None:
            await reply.begin(stream, first, now + budget)
    except BaseException as error:
        await close()
        if received and not (isinstance(error, AttemptError) and error.failure.refused):
            note(await text_events(b"".join(received)))
        elif reply is not None:
            await reply.count_unread()
        if isinstance(error, TimeoutError):
            reason = "first_token_timeout" if request.stream else "answer_timeout"
            raise AttemptError(failures.timed_out(reason)) from None
        if isinstance(error, httpx2.TransportError):
            raise AttemptError(failure_of(error)) from None
        if isinstance(error, AttemptError):
            raise AttemptError(failures.disclosed(error.failure, clean())) from None
        raise
    return reply


def _personal(request: InferenceRequest) -> tuple[str, ...]:
    """Values that identify the caller: they are removed from errors, which subscribers of a shared call see too."""
    named = (request.user, request.params.get("safety_identifier"), request.params.get("prompt_cache_key"))
    return tuple(one for one in (*named, *request.metadata.values()) if isinstance(one, str))


async def _respond(
    send: Send,
    sent: HttpRequest,
    request: InferenceRequest,
    deployment: Deployment,
    sleep: Sleep,
    received: list[bytes],
) -> httpx2.Response:
    """The response to one request, or to the several that some dialects need."""
    steps = MULTI_STEP.get(deployment.provider)
    if steps is None:
        return await send(sent)

    async def read(response: httpx2.Response) -> bytes:
        body = await read_whole(pieces_of(response), MAX_ANSWER_BYTES, received)
        received.clear()
        return body

    return await open_multi_step(
        send, read, steps(sent, request, deployment), stream=request.stream, sleep=sleep
    )


def _request(sent: HttpRequest, deployment: Deployment, budget: float) -> httpx2.Request:
    url, headers = _address(sent.url, tuple(sent.headers.items()))
    timeout = {"connect": min(deployment.timeouts.connect, budget)}
    body = httpx2.ByteStream(sent.body)
    return httpx2.Request(sent.method, url, headers=headers, stream=body, extensions={"timeout": timeout})


@lru_cache(maxsize=1024)
def _address(url: str, headers: tuple[tuple[str, str], ...]) -> tuple[httpx2.URL, httpx2.Headers]:
    """The parsed URL and headers, which are the same for every request of a deployment."""
    return httpx2.URL(url), httpx2.Headers([*HEADERS.items(), *headers])


async def _receive(
    reply: Reply, response: httpx2.Response, received: list[bytes], until: float, *, asked: bool
) -> Body | None:
    """Reads a plain answer into `reply` and returns `None`, or returns the stream to be read.

    `until`: the event loop's time; `asked`: whether a stream was requested. Raises `AttemptError`.
    """
    headers = response.headers
    if response.status_code not in ANSWER_STATUSES:
        body = await read_start(response, MAX_ERROR_BYTES)
        error = parse_error(body)
        failure = failures.of_status(response.status_code, headers, error, time.time())
        raise AttemptError(cut_answers.with_usage(failure, body))
    came = Body(pieces_of(response))
    if not forms.is_stream(await came.beginning(), headers.get("content-type", ""), asked=asked):
        await reply.whole(await read_whole(came, reply.max_bytes, received))
        received.clear()
    elif asked:
        return came
    else:
        await reply.gathered(came, until)
    return None
