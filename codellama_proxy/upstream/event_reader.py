"""Turns the bytes of a streamed answer into events, in any chunking."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import DONE, MAX_EVENT_BYTES, Decoder, EventTooLargeError, encode, frame_at
from codellama_proxy.core.types import ChunkOutlet, Event, Note
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import cut_answers
from codellama_proxy.providers.common.json_documents import UnreadableError
from codellama_proxy.providers.registry import Adapter
from codellama_proxy.upstream.chunk_relay import ChunkRelay
from codellama_proxy.upstream.chunk_template import StreamParser
from codellama_proxy.upstream.credential_filter import CredentialFilter
from codellama_proxy.upstream.timeouts import TaskTimeout

log = logging.getLogger(__name__)

MAX_RELAYED_EVENT_BYTES = 16 << 20
"""Maximum size of one event of a relayed stream: the last one of the Responses API repeats request and answer."""
MAX_STREAM_BYTES = 64 << 20
"""Maximum size of a streamed answer."""


class EventReader:
    """Reads one stream."""

    __slots__ = (
        "_decoder",
        "_filter",
        "_note",
        "_parser",
        "answered",
        "ended",
        "failed",
        "received",
        "unread",
    )

    def __init__(
        self, request: InferenceRequest, deployment: Deployment, adapter: Adapter, note: Note
    ) -> None:
        """`note` is called with all events, in their order."""
        parse = adapter.parse_stream
        self.received = 0
        """Bytes so far."""
        self.ended = False
        """Whether the terminal event was read."""
        self.answered = False
        """Set by the owner once content has arrived."""
        self.failed: AttemptError | None = None
        """The failure to raise after the events before it were returned."""
        self.unread = b""
        """A piece that could not be parsed."""
        self._note = note
        self._filter = CredentialFilter(deployment)
        self._decoder = Decoder(MAX_EVENT_BYTES if request.native is None else MAX_RELAYED_EVENT_BYTES)
        self._parser = StreamParser(lambda state, frame: parse(state, frame, request, deployment))

    def feed(self, piece: bytes) -> Sequence[Event]:
        """The events that this piece completes. Raises `AttemptError`."""
        self.received += len(piece)
        if self.received > MAX_STREAM_BYTES:
            raise AttemptError(failures.too_large(answered=self.answered))
        data, template = self._filter.feed(piece), self._parser.template
        if template is not None and self._decoder.is_between_events:
            event = template.single(data)
            if event is not None:  # tokens usually arrive one by one
                events = (event,)
                self._note(events)
                return events
        try:
            return self._events(self._decoder.feed(data))
        except EventTooLargeError as error:
            self.unread = error.data
        # Outside of the handler: the error, which has the event, would become the context of this one.
        raise AttemptError(failures.too_large(answered=self.answered or cut_answers.is_answer(self.unread)))

    def relay(self, outlet: ChunkOutlet, watch: TaskTimeout) -> ChunkRelay | None:
        """Writes the chunks that come next as long as they match the template; `None` if they have to be parsed."""
        template = self._parser.template
        around = template.written_around(raw=outlet.raw) if template is not None else None
        if template is None or around is None or not self._decoder.is_between_events or self._filter.holds:
            return None
        return ChunkRelay(template, around, self._filter.needles, outlet.write, watch)

    def relayed(self, relay: ChunkRelay) -> Event | None:
        """Ends a relay, and records what it has written as one event; `None` if that is nothing."""
        run = relay.close()
        if run is not None:
            self.received += relay.received
            self._note((run,))
        return run

    def last(self) -> list[Event]:
        """The events at the end of the body; a failure if the dialect's terminal event is missing."""
        try:
            self._decoder.feed(self._filter.flush())
            events = self._events(self._decoder.flush())
        except (UnreadableError, EventTooLargeError):
            events = []  # an incomplete event is discarded, as the specification of event streams requires
        if self.ended:
            return events
        if not self._parser.complete:
            reason = "cut_stream" if self._parser.state is not None else "empty_stream"
            self.failed = AttemptError(failures.disguised(reason, status=200))
            if not events:
                raise self.failed
            return events
        return events + self._events(encode(DONE))

    def _events(self, block: bytes) -> list[Event]:
        """The events in a block of whole server-sent events. Raises `AttemptError`, `EventTooLargeError`."""
        events: list[Event] = []
        parser, at = self._parser, 0
        while at < len(block):
            template = parser.template
            if template is not None and (run := template.run_at(block, at)) is not None:
                event, at = run
                events.append(event)
                continue
            frame, at = frame_at(block, at)
            if frame is None:
                continue
            try:
                events += parser.events_of(frame)
            except Exception as error:
                failed = error if isinstance(error, AttemptError) else unexpected(error)
                failed.failure = cut_answers.with_usage(failed.failure, frame.data)
                if not failed.failure.refused:
                    self.unread = frame.data
                if not events:
                    try:
                        raise failed from None
                    finally:
                        del failed  # its traceback refers to this frame
                self.failed = failed  # the events before it in the same packet are still valid
                break
            if parser.state.done:
                self.ended = True
                break
        self._note(events)
        return events


def unexpected(error: Exception) -> AttemptError:
    """Turns a parser's unexpected exception into a failed attempt; the log line quotes nothing of the answer."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    log.error("an answer could not be read: %s at %s:%s", type(error).__name__, at.filename, at.lineno)
    return UnreadableError("unreadable")
