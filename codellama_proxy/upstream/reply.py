"""An answer in progress: the events of one upstream response, in batches."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2

from codellama_proxy.core.masking import Clean
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import DONE, Decoder, EventTooLargeError, Frame
from codellama_proxy.core.types import Event
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.common.json_documents import UnreadableError
from codellama_proxy.providers.registry import ADAPTERS_BY_ENDPOINT, Adapter
from codellama_proxy.upstream.chunk_template import StreamParser
from codellama_proxy.upstream.credential_filter import CredentialFilter
from codellama_proxy.upstream.response_body import MAX_ANSWER
from codellama_proxy.upstream.timeouts import TaskTimeout
from codellama_proxy.upstream.transport_failure import failure_of

log = logging.getLogger(__name__)

SLICE = 16 << 10
"""Bytes of a stream that are read without a pause for others."""
MAX_STREAM = 64 << 20
MAX_VECTORS = 64 << 20
"""Bytes of a whole answer that is embeddings: two thousand of the longest there are."""
LAST_BYTES = 0.1
"""Seconds to wait for the end of a body whose last event has come: the connection can then be used again."""

Note = Callable[[Sequence[Event]], Any]


def no_note(_: Sequence[Event]) -> None:
    """For callers that record no events."""


class Reply:
    """An answer that has begun. Whoever opened it calls `close`, whatever happens."""

    def __init__(
        self,
        request: InferenceRequest,
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
        self.most = MAX_VECTORS if request.endpoint == "embeddings" else MAX_ANSWER
        """Bytes that a whole answer may have."""
        self._adapter: Adapter = ADAPTERS_BY_ENDPOINT[request.endpoint][deployment.provider]
        self._chat = request
        self._close = close
        self._watch = watch
        self._clean = clean
        self._note = note
        self._chunks: AsyncIterator[bytes] | None = None
        self._filter = CredentialFilter(deployment)
        self._decoder = Decoder()
        parse = self._adapter.parse_stream
        self._interpreter = StreamParser(lambda state, frame: parse(state, frame, request, deployment))
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
            event = self._adapter.parse_response(self._filter.whole(body), self._chat, self.deployment)
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
            for event in events:
                found, begun = found or event.content, begun or event.alive
                if found:
                    break
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
            self._note(await text_events(unread))

    async def close(self) -> None:
        """Gives the connection back if nothing but the end of the body is missing, and closes it otherwise."""
        try:
            if self.ended and self._chunks is not None:
                with self._watch.within(LAST_BYTES):
                    while await anext(self._chunks, None) is not None:
                        pass
        except (TimeoutError, httpx2.TransportError):
            pass  # the answer is complete: how its connection ends does not matter
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
            frames = self._decoder.feed(self._filter.feed(chunk))
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
            self._decoder.feed(self._filter.flush())
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


async def text_events(body: bytes) -> Sequence[Event]:
    if len(body) <= SLICE:
        return cut_answers.text_events(body)
    return await asyncio.to_thread(cut_answers.text_events, body)


def _unforeseen(error: Exception) -> AttemptError:
    """An answer that a dialect stumbles over costs an attempt, and a line in the log that quotes nothing of it."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    log.error("an answer could not be read: %s at %s:%s", type(error).__name__, at.filename, at.lineno)
    return UnreadableError("unreadable")
