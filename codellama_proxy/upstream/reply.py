"""An answer in progress: the events of one upstream response, in batches.

While a caller waits in `Reply.more`, the connection hands each read to a function that parses it and gives the events
to the caller's `take`. The waiting task is woken for what `take` declines, for the end and for a failure. Chunks that
only add text go to the caller's outlet instead, if it has one, and become events later.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from codellama_proxy.core.masking import mask_for
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Failure, HttpRequest, Note, Take, decline, nothing
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.registry import Adapter, adapter_of
from codellama_proxy.upstream.chunk_relay import ChunkRelay
from codellama_proxy.upstream.credential_filter import without_credentials
from codellama_proxy.upstream.event_reader import EventReader, unexpected
from codellama_proxy.upstream.http import Response, ResponseBody, TransportError
from codellama_proxy.upstream.pools import Pool, Pools
from codellama_proxy.upstream.response_body import MAX_ANSWER_BYTES
from codellama_proxy.upstream.timeouts import TaskTimeout

READ_SLICE_BYTES = 16 << 10
"""Bytes of a stream parsed before other tasks may run."""
MAX_EMBEDDINGS_BYTES = 64 << 20
"""Maximum size of an embeddings answer: 2 000 of the longest vectors."""
END_OF_BODY_SECONDS = 0.1
"""How long to wait for the end of a body after its last event, so that the connection can be reused."""


def no_note(_: Sequence[Event]) -> None:
    """For callers that record no events."""


class Reply:
    """An answer that has begun. The caller must call `close`."""

    def __init__(
        self,
        request: InferenceRequest,
        deployment: Deployment,
        sent: HttpRequest,
        pools: Pools,
        pool: Pool,
        watch: TaskTimeout,
        note: Note,
    ) -> None:
        """`pool`: taken once for this reply; `watch` is closed with it."""
        self.deployment = deployment
        self.dropped = sent.dropped
        """The client's parameters that were not sent."""
        self.first: Sequence[Event] = ()
        """The first batch: all events up to the first one with content."""
        self.ended = False
        """Whether the batch returned last was the last one."""
        self.max_bytes = MAX_EMBEDDINGS_BYTES if request.endpoint == "embeddings" else MAX_ANSWER_BYTES
        """Maximum size of a plain answer."""
        self._adapter: Adapter = adapter_of(request, deployment)
        self.response: Response | None = None
        """The upstream's, once it has begun."""
        self._request = request
        self._url = sent.url  # not `sent`, whose body may be large
        self._pools = pools
        self._pool = pool
        self._watch = watch
        self._note = note
        self._body: ResponseBody | None = None
        self._reader: EventReader | None = None
        self._relay: ChunkRelay | None = None
        """Writes chunks to an outlet at present."""
        self._rest = memoryview(b"")
        """The rest of a large chunk that is not parsed yet."""

    def _start(self, body: ResponseBody) -> EventReader:
        """Prepares for reading a stream."""
        self._body = body
        self._reader = reader = EventReader(self._request, self.deployment, self._adapter, self._note)
        return reader

    def read(self, body: bytes) -> None:
        """Parses a plain answer: one event, or its stream events if a stream was requested. Raises `AttemptError`."""
        event, self.first = self._parsed(body)
        self._note((event,))
        self.ended = True

    async def whole(self, body: bytes) -> None:
        """As `read`, in a thread if the answer is large."""
        if len(body) <= MAX_EVENT_LOOP_BYTES:
            self.read(body)
            return
        event, self.first = await asyncio.to_thread(self._parsed, body)
        self._note((event,))
        self.ended = True

    def _parsed(self, whole: bytes) -> tuple[Event, Sequence[Event]]:
        """A plain answer as one event, and in the requested form. Raises `AttemptError`."""
        try:
            body = without_credentials(whole, self.deployment)
            event = self._adapter.parse_response(body, self._request, self.deployment)
            return event, folding.as_stream(event) if self._request.stream else (event,)
        except Exception as error:
            failed = error if isinstance(error, AttemptError) else unexpected(error)
            failed.failure = cut_answers.with_usage(failed.failure, whole)
            raise failed from None

    async def gathered(self, body: ResponseBody, until: float) -> None:
        """Reads a whole stream where a plain answer was requested, and folds it into one. Raises `AttemptError`.

        `until`: the event loop's time.
        """
        reader = self._start(body)
        events: list[Event] = []
        while not self.ended:
            batch = await self._read(until)
            events += batch
            reader.answered = reader.answered or any(event.content for event in batch)
            if reader.received > self.max_bytes:
                raise AttemptError(failures.too_large(answered=reader.answered))
        if not any(event.content for event in events):
            raise AttemptError(failures.disguised("empty_stream", status=200))
        try:
            at_once = reader.received <= MAX_EVENT_LOOP_BYTES
            whole = folding.as_whole(events) if at_once else await asyncio.to_thread(folding.as_whole, events)
        except Exception as error:
            raise unexpected(error) from None
        self.first = (whole,)

    async def begin(self, body: ResponseBody, first: float, end: float) -> None:
        """Reads a stream up to its first event with content; earlier events are kept in `first`.

        `first`: the event loop's time by which the answer must have begun, at least with hidden parts (such as
        reasoning). From then on the idle timeout applies, until the time `end`. Raises `AttemptError`.
        """
        reader = self._start(body)
        held: list[Event] = []
        begun = found = False
        while not found:
            if self.ended:
                raise AttemptError(failures.disguised("empty_stream", status=200))
            try:
                events = await (self._read(end, extends=True) if begun else self._read(first))
            except TimeoutError:
                raise AttemptError(
                    failures.timed_out("idle_timeout" if begun else "first_token_timeout")
                ) from None
            held += events
            for event in events:
                found, begun = found or event.content, begun or event.alive
                if found:
                    break
        reader.answered = True
        if reader.failed is not None:
            raise reader.failed  # no event has been returned yet
        self.first = held

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        """The next batch that `take` does not take, or the last one, which may be empty.

        `outlet`: where chunks may go instead, in their order.

        Raises `AttemptError`: cut, stalled, broken, or not at its end after `seconds`. The upstream may be silent for
        the idle timeout.
        """
        end = asyncio.get_running_loop().time() + seconds
        try:
            while not (events := await self._read(end, take, outlet, extends=True)) and not self.ended:
                pass
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        except TransportError as error:
            raise AttemptError(error.failure) from None
        except AttemptError as failed:
            await self.count_unread()
            raise AttemptError(self.disclosed(failed.failure)) from None
        return events

    async def count_unread(self) -> None:
        """Counts the text of the piece that could not be parsed."""
        if self._reader is not None and (unread := self._reader.unread):
            self._reader.unread = b""
            self._note(await text_events(unread))

    def end_read(self) -> bool:
        """Closes a reply that was read at once, which ended the exchange; `False` for any other reply."""
        if self.response is not None:
            return False
        self._watch.close()
        self._pools.give_back(self._pool)
        return True

    async def close(self) -> None:
        """Returns the connection to the pool if only the end of the body is missing, else closes it."""
        try:
            if self.ended and self._body is not None and not self._body.is_read():
                with self._watch.within(END_OF_BODY_SECONDS):
                    while await anext(self._body, None) is not None:
                        pass
        except (TimeoutError, TransportError):
            pass  # the answer is complete, so the failure does not matter
        finally:
            if self._reader is not None:
                self._reader.failed = None  # its traceback refers to this object
            await self.release()

    async def release(self) -> None:
        """`close` without waiting for the end of the body."""
        self._watch.close()
        try:
            if self.response is not None:
                await self.response.body.aclose()
        finally:
            self._pools.give_back(self._pool)

    def disclosed(self, failure: Failure) -> Failure:
        """The failure without secrets of the deployment and without values that identify the caller."""
        return failures.disclosed(failure, mask_for(self.deployment, self._url, _personal(self._request)))

    async def _read(
        self, end: float, take: Take = decline, outlet: ChunkOutlet | None = None, *, extends: bool = False
    ) -> Sequence[Event]:
        """The first events that `take` does not take; none if a large piece was only read in part.

        Waits until the event loop's time `end`; if `extends`, at most the idle timeout for each piece. Raises
        `TimeoutError`.
        """
        body, reader = self._body, self._reader
        assert body is not None
        assert reader is not None
        if reader.failed is not None:
            raise reader.failed
        declined: Sequence[Event] = ()
        watch, time = self._watch, self._watch.loop.time

        def sink(piece: bytes) -> bool:
            nonlocal declined
            watch.heard_at = time()
            if self._relay is not None:
                self._catch_up(outlet)
            if len(piece) > READ_SLICE_BYTES:
                self._rest = memoryview(piece)
                return False
            events = reader.feed(piece)
            if reader.ended or reader.failed is not None or (events and not take(events)):
                declined = events
                return False
            if outlet is not None and body.ends_chunk(piece):
                self._relay = reader.relay(outlet, watch)
                if self._relay is not None:
                    body.pass_on(self._relay.feed)
            return True

        if self._rest:  # a large piece in slices, so that other tasks run in between
            await asyncio.sleep(0)
            part, self._rest = bytes(self._rest[:READ_SLICE_BYTES]), self._rest[READ_SLICE_BYTES:]
            sink(part)
        else:
            if outlet is not None:
                outlet.catch_up = functools.partial(self._catch_up, outlet)
            try:
                with watch.idle(self.deployment.timeouts.idle, end) if extends else watch.until(end):
                    goes_on = await body.pour(sink)
            finally:
                self._catch_up(outlet)
                if outlet is not None:
                    outlet.catch_up = nothing
            if not goes_on:
                declined = reader.last()
        self.ended = reader.ended
        return declined

    def _catch_up(self, outlet: ChunkOutlet | None) -> None:
        """Ends the relay, if there is one, and notes what it has written as one event."""
        relay, self._relay = self._relay, None
        if relay is None or outlet is None or self._reader is None:
            return
        run = self._reader.relayed(relay)
        if run is not None:
            outlet.note((run,))


async def text_events(body: bytes) -> Sequence[Event]:
    """Events with the text found in a body that could not be parsed, for counting its tokens."""
    if len(body) <= READ_SLICE_BYTES:
        return cut_answers.text_events(body)
    return await asyncio.to_thread(cut_answers.text_events, body)


def _personal(request: InferenceRequest) -> tuple[str, ...]:
    """Values that identify the caller: they are removed from errors, which subscribers of a shared call see too."""
    named = (request.user, request.params.get("safety_identifier"), request.params.get("prompt_cache_key"))
    return tuple(one for one in (*named, *request.metadata.values()) if isinstance(one, str))
