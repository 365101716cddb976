"""One attempt: a request sent to one deployment, until its first meaningful event. Nothing else talks to providers.

`open_reply` either returns a `Reply` whose first events are in hand (the commit point) or raises
`AttemptError`; whatever a transport can raise becomes a `Failure` here and nowhere else. A plain answer is a
stream of one event. `Reply.more` yields the rest in batches: what arrived together is handed on together.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import httpx2

from codellama_proxy import __version__
from codellama_proxy.core.masking import Clean, mask_for
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import DONE, Decoder, EventTooLargeError, Frame
from codellama_proxy.core.types import Event, Failure, HttpRequest
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import parse_error
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.common.json_documents import UnreadableError
from codellama_proxy.providers.registry import ADAPTERS_BY_ENDPOINT, MULTI_STEP, Adapter
from codellama_proxy.upstream import answer_form as forms
from codellama_proxy.upstream.chunk_template import StreamParser
from codellama_proxy.upstream.content_encoding import decoded, decoder_of
from codellama_proxy.upstream.multi_step import Send, Sleep, open_multi_step
from codellama_proxy.upstream.pools import Pools
from codellama_proxy.upstream.timeouts import TaskTimeout

log = logging.getLogger(__name__)

SLICE = 16 << 10
"""Bytes of a stream that are read without a pause for others."""
MAX_ANSWER = 16 << 20
"""Bytes of a whole answer, and of one error body times a hundred."""
MAX_STREAM = 64 << 20
MAX_VECTORS = 64 << 20
"""Bytes of a whole answer that is embeddings: two thousand of the longest there are."""
MAX_ERROR = 64 << 10
LAST_BYTES = 0.1
"""Seconds to wait for the end of a body whose last event has come: the connection can then be used again."""
ANSWERED = frozenset({200, 201, 202, 203, 206})
"""Statuses whose body is read as an answer."""
HEADERS = {"user-agent": f"codellama-proxy/{__version__}", "accept-encoding": "identity"}


Note = Callable[[Sequence[Event]], Any]


def _no_note(_: Sequence[Event]) -> None:
    """For callers without books."""


class Reply:
    """An answer that has begun. Whoever opened it calls `close`, whatever happens."""

    def __init__(
        self,
        chat: InferenceRequest,
        deployment: Deployment,
        close: Callable[[], Any],
        dropped: tuple[str, ...],
        watch: TaskTimeout,
        clean: Callable[[], Clean],
        note: Note,
    ) -> None:
        self.deployment = deployment
        self.dropped = dropped
        self.first: Sequence[Event] = ()
        self.ended = False
        """The last batch handed out was the last there is."""
        self.most = MAX_VECTORS if chat.endpoint == "embeddings" else MAX_ANSWER
        """Bytes that a whole answer may have."""
        self._adapter: Adapter = ADAPTERS_BY_ENDPOINT[chat.endpoint][deployment.provider]
        self._chat = chat
        self._close = close
        self._watch = watch
        self._clean = clean
        self._note = note
        self._chunks: AsyncIterator[bytes] | None = None
        self._decoder = Decoder()
        parse = self._adapter.parse_stream
        self._interpreter = StreamParser(lambda state, frame: parse(state, frame, chat, deployment))
        self._received = 0
        self._left = memoryview(b"")
        """What came and is not read yet."""
        self._answered = False
        """Content has come."""
        self._unread = b""
        """A piece that could not be read: what it says is counted before the failure is raised."""
        self._failed: AttemptError | None = None
        """Raised once the events before it have been handed on."""

    async def whole(self, body: bytes) -> None:
        """Takes a plain answer: one event, and the end. Where a stream was asked for, the events it amounts to."""
        at_once = len(body) <= MAX_EVENT_LOOP_BYTES
        try:
            event, self.first = self._parsed(body) if at_once else await asyncio.to_thread(self._parsed, body)
        except AttemptError as failed:
            failed.failure = cut_answers.with_usage(failed.failure, body)
            raise
        self._note((event,))
        self.ended = True

    def _parsed(self, body: bytes) -> tuple[Event, Sequence[Event]]:
        """A whole answer as one event, and in the form that was asked for. Raises `AttemptError`."""
        try:
            event = self._adapter.parse_response(body, self._chat, self.deployment)
            return event, folding.as_stream(event) if self._chat.stream else (event,)
        except AttemptError:
            raise
        except Exception as error:
            raise _unforeseen(error) from None

    async def gathered(self, chunks: AsyncIterator[bytes]) -> None:
        """Takes a stream where a plain answer was asked for: the one that it adds up to."""
        self._chunks = chunks
        said: list[Event] = []
        while not self.ended:
            events = await self._read()
            said += events
            self._answered = self._answered or any(event.content for event in events)
            if self._received > self.most:
                raise AttemptError(failures.too_large(answered=self._answered))
        if not any(event.content for event in said):
            raise AttemptError(failures.disguised("empty_stream", status=200))
        try:
            at_once = self._received <= MAX_EVENT_LOOP_BYTES
            whole = folding.as_whole(said) if at_once else await asyncio.to_thread(folding.as_whole, said)
        except Exception as error:
            raise _unforeseen(error) from None
        self.first = (whole,)

    async def begin(self, chunks: AsyncIterator[bytes], first: float, end: float) -> None:
        """Reads a stream up to its first event with content; what came before it is kept.

        `first` is the event loop's time by which the answer must have begun, if only with what stays hidden. After
        that every byte shows that the upstream lives, until `end`.
        """
        self._chunks = chunks
        held: list[Event] = []
        begun = found = False
        while not found:
            if self.ended:
                raise AttemptError(failures.disguised("empty_stream", status=200))
            try:
                events = await (self._next(end) if begun else self._read_until(first))
            except TimeoutError:
                raise AttemptError(
                    failures.timed_out("idle_timeout" if begun else "first_token_timeout")
                ) from None
            held += events
            found = any(event.content for event in events)
            begun = begun or any(event.alive for event in events)
        self._answered = True
        if self._failed is not None:
            raise self._failed  # nothing has been handed out yet
        self.first = held

    async def more(self, seconds: float) -> Sequence[Event]:
        """The next batch, which may be empty when it is the last. Raises `AttemptError`: cut, stalled or broken.

        It waits for `seconds`, as long as the upstream is never silent for longer than the idle timeout.
        """
        end = asyncio.get_running_loop().time() + seconds
        try:
            while not (events := await self._next(end)) and not self.ended:
                pass
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        except httpx2.TransportError as error:
            raise AttemptError(failure_of(error)) from None
        except AttemptError as failed:
            await self.count_unread()
            raise AttemptError(failures.disclosed(failed.failure, self._clean())) from None
        return events

    async def count_unread(self) -> None:
        """Notes the text of the piece that could not be read."""
        unread, self._unread = self._unread, b""
        if unread:
            self._note(await _text_events(unread))

    async def close(self) -> None:
        """Gives the connection back if nothing but the end of the body is missing, and closes it otherwise."""
        try:
            if self.ended and self._chunks is not None:
                with self._watch.within(LAST_BYTES):
                    while await anext(self._chunks, None) is not None:
                        pass
        except (TimeoutError, httpx2.TransportError):
            pass  # the answer is complete: how its connection ends is nobody's concern
        finally:
            await self._close()

    async def _next(self, end: float) -> list[Event]:
        """What one read gives, if it does not take longer than the idle timeout. Raises `TimeoutError`."""
        silent = asyncio.get_running_loop().time() + self.deployment.timeouts.idle
        return await self._read_until(min(silent, end))

    async def _read_until(self, at: float) -> list[Event]:
        with self._watch.until(at):
            return await self._read()

    async def _read(self) -> list[Event]:
        assert self._chunks is not None
        if self._failed is not None:
            raise self._failed
        chunk = await self._slice(self._chunks)
        if chunk is None:
            return self._last()
        self._received += len(chunk)
        if self._received > MAX_STREAM:
            raise AttemptError(failures.too_large(answered=self._answered))
        try:
            frames = self._decoder.feed(chunk)
        except EventTooLargeError as error:
            self._unread = error.data
            answered = self._answered or cut_answers.is_answer(error.data)
            raise AttemptError(failures.too_large(answered=answered)) from None
        return self._events(frames)

    async def _slice(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """What comes next: of a large piece one part after another, so that others get their turn in between."""
        if self._left:
            await asyncio.sleep(0)
        elif (chunk := await anext(chunks, None)) is None or len(chunk) <= SLICE:
            return chunk
        else:
            self._left = memoryview(chunk)
        part, self._left = bytes(self._left[:SLICE]), self._left[SLICE:]
        return part

    def _last(self) -> list[Event]:
        """The end of the body: fine after the dialect's terminal event, a failure before it."""
        try:
            events = self._events(self._decoder.flush())
        except (UnreadableError, EventTooLargeError):
            events = []  # an event that is cut off is none: that is how streams are to be read
        if self.ended:
            return events
        if not self._interpreter.complete:
            reason = "cut_stream" if self._interpreter.state is not None else "empty_stream"
            self._failed = AttemptError(failures.disguised(reason, status=200))
            if not events:
                raise self._failed
            return events
        return events + self._events([Frame(DONE)])

    def _events(self, frames: Sequence[Frame]) -> list[Event]:
        events: list[Event] = []
        interpreter = self._interpreter
        for frame in frames:
            try:
                events += interpreter.events_of(frame)
            except Exception as error:
                failed = error if isinstance(error, AttemptError) else _unforeseen(error)
                failed.failure = cut_answers.with_usage(failed.failure, frame.data)
                if not failed.failure.refused:
                    self._unread = frame.data
                if not events:
                    raise failed from None
                self._failed = failed  # what came before it, in the same packet, was said all the same
                break
            if interpreter.state.done:
                self.ended = True
                break
        self._note(events)
        return events


async def _text_events(body: bytes) -> Sequence[Event]:
    if len(body) <= SLICE:
        return cut_answers.text_events(body)
    return await asyncio.to_thread(cut_answers.text_events, body)


def _unforeseen(error: Exception) -> AttemptError:
    """An answer that a dialect stumbles over costs an attempt, and a line in the log that quotes nothing of it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    log.error("an answer could not be read: %s at %s:%s", type(error).__name__, at.filename, at.lineno)
    return UnreadableError("unreadable")


async def open_reply(
    pools: Pools,
    sent: HttpRequest,
    chat: InferenceRequest,
    deployment: Deployment,
    budget: float,
    sleep: Sleep = asyncio.sleep,
    note: Note = _no_note,
) -> Reply:
    """Sends what the dialect made of `chat` and waits for the first event, `budget` seconds at most.

    `note` hears every event as it comes, also of an answer that fails.
    Raises `AttemptError`, its message cleaned of this deployment's secrets.
    """
    pool = pools.of(deployment)
    wire = pool.take()
    response: httpx2.Response | None = None
    reply: Reply | None = None

    async def send(one: HttpRequest) -> httpx2.Response:
        return await wire.handle_async_request(_request(one, deployment, budget))

    watch = TaskTimeout()
    come: list[bytes] = []
    """The pieces of a whole answer, until it is read."""

    async def close() -> None:
        watch.close()
        try:
            if response is not None:
                await response.stream.aclose()  # type: ignore[union-attr]  # always an async stream here
        finally:
            pools.give_back(pool)

    def clean() -> Clean:
        return mask_for(deployment, sent.url, _personal(chat))

    own = deployment.timeouts.first_token if chat.stream else deployment.timeouts.answer
    now = asyncio.get_running_loop().time()
    first = now + min(own, budget)
    try:
        with watch.until(first):
            response = await _respond(send, sent, chat, deployment, sleep, come)
            reply = Reply(chat, deployment, close, sent.dropped, watch, clean, note)
            stream = await _receive(reply, response, come, asked=chat.stream)
        if stream is not None:
            await reply.begin(stream, first, now + budget)
    except BaseException as error:
        await close()
        if come and not (isinstance(error, AttemptError) and error.failure.refused):
            note(await _text_events(b"".join(come)))
        elif reply is not None:
            await reply.count_unread()
        if isinstance(error, TimeoutError):
            reason = "first_token_timeout" if chat.stream else "answer_timeout"
            raise AttemptError(failures.timed_out(reason)) from None
        if isinstance(error, httpx2.TransportError):
            raise AttemptError(failure_of(error)) from None
        if isinstance(error, AttemptError):
            raise AttemptError(failures.disclosed(error.failure, clean())) from None
        raise
    return reply


def _personal(chat: InferenceRequest) -> tuple[str, ...]:
    """Who asks: an error may be told to another caller who waits for the same answer."""
    named = (chat.user, chat.params.get("safety_identifier"), chat.params.get("prompt_cache_key"))
    return tuple(one for one in (*named, *chat.metadata.values()) if isinstance(one, str))


async def _respond(
    send: Send,
    sent: HttpRequest,
    chat: InferenceRequest,
    deployment: Deployment,
    sleep: Sleep,
    come: list[bytes],
) -> httpx2.Response:
    """What came back: for one request, or for the several that some dialects need."""
    steps = MULTI_STEP.get(deployment.provider)
    if steps is None:
        return await send(sent)

    async def read(response: httpx2.Response) -> bytes:
        body = await _body(_bytes(response), MAX_ANSWER, come)
        come.clear()
        return body

    return await open_multi_step(send, read, steps(sent, chat, deployment), stream=chat.stream, sleep=sleep)


def _request(sent: HttpRequest, deployment: Deployment, budget: float) -> httpx2.Request:
    url, headers = _address(sent.url, tuple(sent.headers.items()))
    timeout = {"connect": min(deployment.timeouts.connect, budget)}
    body = httpx2.ByteStream(sent.body)
    return httpx2.Request(sent.method, url, headers=headers, stream=body, extensions={"timeout": timeout})


@lru_cache(maxsize=1024)
def _address(url: str, headers: tuple[tuple[str, str], ...]) -> tuple[httpx2.URL, httpx2.Headers]:
    """The same for every request of a deployment: parsed once."""
    return httpx2.URL(url), httpx2.Headers([*HEADERS.items(), *headers])


async def _receive(
    reply: Reply, response: httpx2.Response, come: list[bytes], *, asked: bool
) -> AsyncIterator[bytes] | None:
    """Takes an answer that is to be had whole; else returns the stream that is yet to be read.

    `asked`: for a stream. Raises `AttemptError`.
    """
    headers = response.headers
    if response.status_code not in ANSWERED:
        body = await _start_of(response, MAX_ERROR)
        error = parse_error(body)
        failure = failures.of_status(response.status_code, headers, error, time.time())
        raise AttemptError(cut_answers.with_usage(failure, body))
    came = Body(_bytes(response))
    if not forms.is_stream(await came.beginning(), headers.get("content-type", ""), asked=asked):
        await reply.whole(await _body(came, reply.most, come))
        come.clear()
    elif asked:
        return came
    else:
        await reply.gathered(came)
    return None


def _bytes(response: httpx2.Response) -> AsyncIterator[bytes]:
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


async def _body(chunks: AsyncIterator[bytes], limit: int, come: list[bytes]) -> bytes:
    """The whole body. Raises `AttemptError` beyond `limit` bytes; `come` gets its pieces."""
    size = 0
    async for piece in chunks:
        come.append(piece)
        size += len(piece)
        if size > limit:
            raise AttemptError(failures.too_large(answered=cut_answers.is_answer(b"".join(come))))
    return b"".join(come)


async def _start_of(response: httpx2.Response, limit: int) -> bytes:
    """The body as far as `limit` bytes, or a piece more; empty if it cannot be decoded."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in _bytes(response):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    except AttemptError:
        return b""
    return b"".join(pieces)


NOT_SENT: Mapping[type[httpx2.TransportError], str] = {
    httpx2.ConnectTimeout: "connect_timeout",
    httpx2.ConnectError: "connect",
    httpx2.PoolTimeout: "connect_timeout",
    httpx2.UnsupportedProtocol: "address",
    httpx2.ProxyError: "proxy",
}


def failure_of(error: httpx2.TransportError) -> Failure:
    """What a broken exchange means. Anything after the connection stood may have been processed."""
    for kind, reason in NOT_SENT.items():
        if isinstance(error, kind):
            if kind is httpx2.ConnectTimeout:
                return failures.timed_out(reason, sent=False)
            return failures.unreachable(reason, sent=False)
    if isinstance(error, httpx2.TimeoutException):
        return failures.timed_out("read_timeout")
    return failures.unreachable("broken_connection", sent=True)
