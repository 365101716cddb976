"""One attempt: a request to one deployment, up to the first event with content. The only module that calls providers.

`open_reply` returns a `Reply` whose first events have arrived (the commit point) or raises `AttemptError`; every
transport error becomes a `Failure`. A plain answer is a stream of one event. `Reply.more` returns the rest in batches
of events that arrived together.
"""

from __future__ import annotations

import asyncio
import time

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import HttpRequest, Note
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.registry import MULTI_STEP
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.http import BytesBody, Response, ResponseBody, Transport, TransportError
from codellama_proxy.upstream.multi_step import Sleep, open_multi_step
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.reply import Reply, no_note, text_events
from codellama_proxy.upstream.response_body import (
    MAX_ANSWER_BYTES,
    MAX_ERROR_BYTES,
    ExaminedBody,
    body_of,
    read_start,
    read_whole,
)
from codellama_proxy.upstream.timeouts import TaskTimeout

ANSWER_STATUSES = frozenset({200, 201, 202, 203, 206})
"""Statuses whose body is read as an answer."""


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
    watch = TaskTimeout(pools.deadlines)
    reply = Reply(request, deployment, sent, pools, pool, watch, note)
    received: list[bytes] = []
    """The pieces of a plain answer that is being read."""
    connect = min(deployment.timeouts.connect, budget)
    own = deployment.timeouts.first_token if request.stream else deployment.timeouts.answer
    now = watch.loop.time()
    first = now + min(own, budget)
    try:
        with watch.until(first):
            if deployment.provider in MULTI_STEP:
                response = await _respond(transport, connect, sent, request, deployment, sleep, received)
            else:
                response = await transport.send(sent, connect)
            stream = None
            if not _read_at_once(reply, response, received, asked=request.stream):
                reply.response = response
                stream = await _receive(reply, response, received, first, asked=request.stream)
        if stream is not None:
            await reply.begin(stream, first, now + budget)
    except BaseException as error:
        await reply.release()
        if received and not (isinstance(error, AttemptError) and error.failure.refused):
            note(await text_events(b"".join(received)))
        else:
            await reply.count_unread()
        if isinstance(error, TimeoutError):
            reason = "first_token_timeout" if request.stream else "answer_timeout"
            raise AttemptError(failures.timed_out(reason)) from None
        if isinstance(error, TransportError):
            raise AttemptError(error.failure) from None
        if isinstance(error, AttemptError):
            raise AttemptError(reply.disclosed(error.failure)) from None
        raise
    return reply


async def _respond(
    transport: Transport,
    connect: float,
    sent: HttpRequest,
    request: InferenceRequest,
    deployment: Deployment,
    sleep: Sleep,
    received: list[bytes],
) -> Response:
    """One response for the several requests that the dialect needs."""

    async def send(one: HttpRequest) -> Response:
        return await transport.send(one, connect)

    async def read(response: Response) -> bytes:
        body = await read_whole(body_of(response), MAX_ANSWER_BYTES, received)
        received.clear()
        return body

    steps = MULTI_STEP[deployment.provider](sent, request, deployment)
    return await open_multi_step(send, read, steps, stream=request.stream, sleep=sleep)


def _read_at_once(reply: Reply, response: Response, received: list[bytes], *, asked: bool) -> bool:
    """Reads a plain answer that arrived together with the head of its response, as most do. Raises `AttemptError`.

    Returns `False` for any other answer, which is to be read by `_receive`.
    """
    if response.status != 200 or response.headers.get("content-encoding"):
        return False
    whole = response.body.arrived()
    if whole is None:
        return False
    if len(whole) > MAX_EVENT_LOOP_BYTES or forms.is_stream(whole, response.headers, asked=asked):
        response.body = BytesBody(whole)
        return False
    received.append(whole)
    reply.read(whole)
    received.clear()
    return True


async def _receive(
    reply: Reply, response: Response, received: list[bytes], until: float, *, asked: bool
) -> ResponseBody | None:
    """Reads a plain answer into `reply` and returns `None`, or returns the stream to be read.

    `until`: the event loop's time; `asked`: whether a stream was requested. Raises `AttemptError`.
    """
    headers = response.headers
    if response.status not in ANSWER_STATUSES:
        start = await read_start(response, MAX_ERROR_BYTES)
        error = parse_error(start)
        failure = failures.of_status(response.status, headers, error, time.time())
        raise AttemptError(cut_answers.with_usage(failure, start))
    body = body_of(response)
    begins = whole = body.arrived()
    if begins is None:
        body = examined = ExaminedBody(body)
        begins = await examined.beginning()
    if not forms.is_stream(begins, headers, asked=asked):
        if whole is None:
            whole = await read_whole(body, reply.max_bytes, received)
        else:
            received.append(whole)
        await reply.whole(whole)
        received.clear()
        return None
    if whole is not None:
        body = BytesBody(whole)
    if asked:
        return body
    await reply.gathered(body, until)
    return None
