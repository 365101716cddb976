"""The answer of one upstream call as it arrives, and the requests that receive it.

A subscriber first receives what is in the buffer, then each batch as it is published. A subscriber of the other form (a
stream, or a whole answer) waits for the end and gets the answer converted. A large answer takes no more subscribers,
and the batches that all of them have had are dropped from its buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from codellama_proxy.cache.reply import Reply, in_other_form
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.runs import with_runs

log = logging.getLogger(__name__)

MAX_AHEAD_BYTES = 256 << 10
"""How far the upstream may be read ahead of the fastest subscriber."""
MAX_SHARED_BYTES = 8 << 20
"""Maximum size of an answer that is buffered for late subscribers."""
JOINED_BATCHES = 32
"""Batches that are joined to one while there are no subscribers."""
SLACK_SECONDS = 0.5
"""How much longer a subscriber waits than the call itself, so that the call reports the reason first."""


class Call(Protocol):
    """The call that an answer belongs to."""

    def closed(self) -> None:
        """No more requests may subscribe."""

    def unsubscribed(self) -> None:
        """A subscriber has left."""


class SharedAnswer:
    """Not begun, in progress, or over: complete (`error` is None), failed, or abandoned before it began."""

    reply: Reply | None = None
    """The upstream's, once it has begun."""
    discarded = 0
    """Number of batches dropped from the start of the buffer."""
    size = 0
    """Size of the answer so far, in bytes."""
    complete = False
    error: BaseException | None = None
    abandoned = False
    """It will not begin; no request was sent."""
    _joined = 0
    """Number of batches in the buffer whose chunks are runs already."""
    _room: asyncio.Event | None = None
    """Set when a subscriber may have caught up."""

    def __init__(self, call: Call, *, stream: bool) -> None:
        self.stream = stream
        self.batches: list[Sequence[Event]] = []
        """The buffer: the whole answer so far, unless it is `large`."""
        self.subscriptions: set[Subscription] = set()
        self._call: Call | None = call

    @property
    def over(self) -> bool:
        return self.complete or self.abandoned or self.error is not None

    @property
    def count(self) -> int:
        """Number of batches so far."""
        return self.discarded + len(self.batches)

    @property
    def large(self) -> bool:
        return self.size > MAX_SHARED_BYTES

    # --- for the call --------------------------------------------------------------------------------------------

    def publish(self, batch: Sequence[Event], *, last: bool = False) -> None:
        """Adds a batch to the buffer, and gives it to the subscribers."""
        size = self.size
        for event in batch:
            size += len(event.body)
        grown = self.size <= MAX_SHARED_BYTES < size
        self.batches.append(batch)
        self.size, self.complete = size, last
        if last or grown:
            self._close()
        if self.subscriptions:
            self._notify()
        elif size > MAX_SHARED_BYTES:
            self._discard(self.count)
        elif not last and len(self.batches) >= self._joined + JOINED_BATCHES:
            self._join()

    def _join(self) -> None:
        """Joins the latest batches to one. Nobody has received a part of them only."""
        latest = [event for batch in self.batches[self._joined :] for event in batch]
        self.batches[self._joined :] = [with_runs(latest)]
        self._joined += 1

    def take(self, batch: Sequence[Event]) -> bool:
        """Publishes a batch, unless the answer is too far ahead of its subscribers."""
        if self._is_ahead():
            return False
        self.publish(batch)
        return True

    async def wait_for_room(self) -> None:
        """Returns when a subscriber has caught up."""
        while self._is_ahead():
            self._room = asyncio.Event()
            await self._room.wait()

    def _is_ahead(self) -> bool:
        had = max([one.size for one in self.subscriptions], default=self.size)
        return self.size - had > MAX_AHEAD_BYTES

    def fail(self, error: BaseException) -> None:
        """Subscribers raise `error`, unless the answer is over."""
        if not self.over:
            self.error = error
            self._close()
            self._notify()

    def abandon(self) -> None:
        """Subscribers ask for themselves, unless the answer is over."""
        if not self.over:
            self.abandoned = True
            self._close()
            self._notify()

    def detach(self) -> None:
        """Forgets the call, which has ended, and the traceback of its failure: no cycles keep its memory."""
        self._call = None
        if self.error is not None:
            self.error = same_failure(self.error)

    def _close(self) -> None:
        """Tells the call; an error in storing the answer does not fail the answer."""
        try:
            if self._call is not None:
                self._call.closed()
        except Exception:
            log.exception("an answer could not be kept")

    def _notify(self) -> None:
        for subscription in [*self.subscriptions]:
            subscription.notify()

    # --- for its subscribers -------------------------------------------------------------------------------------

    def taken(self) -> None:
        """Called when a subscriber has read the buffer."""
        self._make_room()
        if self.large:
            self._discard(min([one.at for one in self.subscriptions], default=self.discarded))

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _discard(self, count: int) -> None:
        """Drops the batches before number `count` from the buffer."""
        if count > self.discarded:
            del self.batches[: count - self.discarded]
            self.discarded = count

    def unsubscribe(self, subscription: Subscription) -> None:
        self.subscriptions.discard(subscription)
        self._make_room()
        if self._call is not None:
            self._call.unsubscribed()
        self._notify()


class Subscription:
    """One request's view of a shared answer: a `Reply`, once `start` has returned."""

    def __init__(self, answer: SharedAnswer, *, stream: bool, at: int = 0, size: int = 0) -> None:
        """`at` and `size`: the batches and bytes already received."""
        self.answer = answer
        self.first: Sequence[Event] = ()
        self.at = at
        self._size = size
        self._stream = stream
        self._same_form = stream == answer.stream
        self._draining = False
        self._take: Take = decline
        self._waiter: asyncio.Future[None] | None = None
        answer.subscriptions.add(self)

    @property
    def size(self) -> int:
        """Bytes received; all so far if it waits for the whole answer, and 0 if its request no longer reads."""
        if self._draining:
            return 0
        return self._size if self._same_form else self.answer.size

    @property
    def deployment(self) -> Deployment:
        return self._begun.deployment

    @property
    def dropped(self) -> tuple[str, ...]:
        return self._begun.dropped

    @property
    def _begun(self) -> Reply:
        assert self.answer.reply is not None
        return self.answer.reply

    @property
    def ended(self) -> bool:
        return self.answer.complete and self.at == self.answer.count

    async def start(self) -> bool:
        """Waits for the first batch. Returns `False` if there will be none."""
        answer = self.answer
        while not (answer.complete or (self._same_form and answer.batches)):
            if answer.over:
                return False
            await self._change()
        events = self.rest()
        if self._same_form:
            self.first = events
            return True
        try:
            self.first = await in_other_form(events, answer.size, stream=self._stream)
        except Exception:
            log.exception("an answer could not be shared in the other form")
            return False
        return True

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        """`Reply.more`; nothing goes to `outlet`. Raises `AttemptError`, or the exception that ended the call."""
        del outlet
        try:
            async with asyncio.timeout(seconds + SLACK_SECONDS):
                while self.at == self.answer.count:
                    if self.answer.error is not None:
                        raise same_failure(self.answer.error)
                    await self._change(take)
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        return self.rest()

    async def drain(self, note: Callable[[Sequence[Event]], None]) -> None:
        """Passes further events to `note` until the answer is over or no other request needs it."""
        self._draining = True

        def take(events: Sequence[Event]) -> bool:
            note(events)
            return True

        try:
            while not self.answer.over and len(self.answer.subscriptions) > 1:
                note(self.rest())
                await self._change(take)
        finally:
            note(self.rest())

    async def close(self) -> None:
        self.answer.unsubscribe(self)

    def rest(self) -> Sequence[Event]:
        """The events that this request has not received yet."""
        events = self._unreceived()
        self._received_all()
        return events

    async def _change(self, take: Take = decline) -> None:
        """Returns at the next change of the answer's state other than a batch that `take` takes."""
        self._take, self._waiter = take, asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def notify(self) -> None:
        """Called when the answer has changed: gives the new events to `take`, or wakes the request's task."""
        waiter, answer = self._waiter, self.answer
        if waiter is None or waiter.done() or not (self._same_form or answer.over):
            return
        try:
            if self.at < answer.count and not answer.over and self._take(self._unreceived()):
                self._received_all()
                return
        except Exception as error:  # raised where the task waits
            waiter.set_exception(error)
            return
        waiter.set_result(None)

    def _unreceived(self) -> Sequence[Event]:
        batches = self.answer.batches[self.at - self.answer.discarded :]
        return batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]

    def _received_all(self) -> None:
        self.at, self._size = self.answer.count, self.answer.size
        self.answer.taken()


def same_failure(error: BaseException) -> BaseException:
    """A copy of the failure, to be raised by another request."""
    return AttemptError(error.failure) if isinstance(error, AttemptError) else error
