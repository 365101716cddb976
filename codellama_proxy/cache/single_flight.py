"""One upstream call whose answer is shared by identical requests: a shared call with a subscription for each.

The owner, the request that makes the call, runs it in its own task and adds each batch to the call's buffer. Once a
stream has subscribers, a separate task reads it, so that an owner that is slow or disconnects does not delay them. The
call ends when the answer is complete, when it fails, or when no request needs it. A late subscriber gets the buffer
and then the following batches. A request for the other form (stream or plain) waits for the end and gets the answer
converted.

The upstream is read at most 256 KiB ahead of the fastest subscriber. A large answer accepts no further subscribers,
and batches that all subscribers have received are dropped from its buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from codellama_proxy.cache.reply import Begin, Reply, in_other_form
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event, Take, decline
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_AHEAD_BYTES = 256 << 10
"""How far the upstream may be read ahead of the fastest subscriber."""
MAX_SHARED_BYTES = 8 << 20
"""Maximum size of an answer that is buffered for late subscribers."""
SLACK_SECONDS = 0.5
"""How much longer a subscriber waits than the call itself, so that the call reports the reason first."""


class SharedCall:
    """A call that is not started, in progress, or over: complete, failed (`error`), or abandoned before its start."""

    def __init__(
        self,
        *,
        stream: bool,
        seconds_left: Callable[[], float],
        owner_left: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        closed_to_others: Callable[[SharedCall], Any],
    ) -> None:
        """`seconds_left`: how long the next batch may take; `owner_left`: whether the owner's client disconnected;
        `spawn`: creates a task; `closed_to_others`: called when no more requests may subscribe.
        """
        self.stream = stream
        self.batches: list[Sequence[Event]] = []
        """The buffer: the whole answer so far, unless it is `large`."""
        self.discarded = 0
        """Number of batches dropped from the start of the buffer."""
        self.size = 0
        """Size of the answer so far, in bytes."""
        self.complete = False
        self.error: BaseException | None = None
        self.abandoned = False
        """It will not be started; no request was sent."""
        self.subscriptions: set[Subscription] = set()
        self.reply: Reply | None = None
        self.owner_view: Subscription | None = None
        """The owner's subscription, once a task reads the call."""
        self._seconds_left = seconds_left
        self._owner_left = owner_left
        self._spawn = spawn
        self._closed_to_others = closed_to_others
        self._owner: asyncio.Task[Any] | None = None
        """The owner's task, while it waits for the upstream."""
        self._reader: asyncio.Task[None] | None = None
        """Reads a stream that has subscribers."""
        self._room = asyncio.Event()

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

    @property
    def failing(self) -> bool:
        """Whether the owner is being cancelled while it waits for the upstream."""
        return self._owner is not None and self._owner.cancelling() > 0

    @property
    def others_wait(self) -> bool:
        """Whether requests other than the owner wait for the answer."""
        return len(self.subscriptions) > (0 if self.owner_view is None else 1)

    # --- for its owner ---------------------------------------------------------------------------------------

    async def begin(self, begin: Begin) -> Reply:
        """Starts the call; returns the reply after its first batch. Raises what `begin` raises."""
        self.reply = reply = await self._awaited(begin())
        self._publish(reply.first, last=reply.ended)
        self.share()
        return reply

    async def more(self, seconds: float, take: Take = decline) -> Sequence[Event]:
        """`Reply.more` for the owner."""
        if self.owner_view is not None:
            return await self.owner_view.more(seconds, take)
        assert self.reply is not None

        def take_and_publish(batch: Sequence[Event]) -> bool:
            if self.subscriptions or not take(batch):  # the owner's task is woken, and shares the call
                return False
            self._publish(batch, last=False)
            return True

        batch = await self._awaited(self.reply.more(seconds, take_and_publish))
        self._publish(batch, last=self.reply.ended)
        self.share()
        return batch

    async def _awaited(self, step: Awaitable[T]) -> T:
        """The result of a step that the owner's task awaits. An exception fails the call."""
        self._owner = asyncio.current_task()
        try:
            return await step
        except Exception as error:
            self._fail(error)
            raise
        except BaseException:
            self._fail(abandoned())
            raise
        finally:
            self._owner = None

    def _publish(self, batch: Sequence[Event], *, last: bool) -> None:
        """Adds a batch to the buffer."""
        was_large = self.large
        self.batches.append(batch)
        for event in batch:
            self.size += len(event.body)
        self.complete = last
        if last or self.large != was_large:
            self._close_to_others()
        if self.subscriptions:
            self._notify()
        elif self.large:
            self._discard(self.count)

    def _fail(self, error: BaseException) -> None:
        """Subscribers raise `error`."""
        if not self.over:
            self.error = error
            self._close_to_others()
            self._notify()

    async def leave(self, note: Callable[[Sequence[Event]], None]) -> None:
        """Called when the owner is done or its client disconnected; returns when no other request needs the call.

        `note` is called with the events that the owner has not received.
        """
        if self.owner_view is not None:
            await self.owner_view.drain(note)
        elif self.reply is not None:
            self._fail(abandoned())
        else:
            self.abandon()

    def unshared(self) -> SharedCall:
        """Abandons this call and returns a new one for the owner alone."""
        self.abandon()
        return SharedCall(
            stream=self.stream,
            seconds_left=self._seconds_left,
            owner_left=self._owner_left,
            spawn=self._spawn,
            closed_to_others=self._closed_to_others,
        )

    def abandon(self) -> None:
        """Gives up a call before its start; subscribers then make their own calls."""
        if not self.over:
            self.abandoned = True
            self._close_to_others()
            self._notify()

    async def close(self) -> None:
        """Ends the owner's part; returns when the connection is closed."""
        if self.owner_view is not None:
            await self.owner_view.close()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        elif self.reply is not None:
            await self.reply.close()

    def _close_to_others(self) -> None:
        """What is done with an answer besides answering never costs the answer."""
        try:
            self._closed_to_others(self)
        except Exception:
            log.exception("an answer could not be kept")

    # --- once it is shared -----------------------------------------------------------------------------------

    def share(self) -> None:
        """Starts a task that reads the rest, if there are subscribers and the owner is not waiting for a batch."""
        if not self.subscriptions or self.reply is None or self.over:
            return
        if self._owner is not None or self._reader is not None:
            return
        self.owner_view = Subscription(self, stream=self.stream, at=self.count, size=self.size)
        self._reader = self._spawn(self._read(self.reply))
        # Report the end of the task to the subscribers even if it was cancelled before it ran.
        self._reader.add_done_callback(lambda _: self._fail(abandoned()))

    async def _read(self, reply: Reply) -> None:
        try:
            try:
                while not reply.ended:
                    while self._is_ahead():
                        self._room.clear()
                        await self._room.wait()
                    batch = await reply.more(self._seconds_left(), self._take)
                    self._publish(batch, last=reply.ended)
            finally:
                await reply.close()
        except asyncio.CancelledError:
            self._fail(abandoned())
            raise
        except Exception as error:  # the subscribers raise it
            self._fail(error)

    def _take(self, batch: Sequence[Event]) -> bool:
        if self._is_ahead():
            return False
        self._publish(batch, last=False)
        return True

    def _is_ahead(self) -> bool:
        had = max([one.size for one in self.subscriptions], default=self.size)
        return self.size - had > MAX_AHEAD_BYTES

    def taken(self) -> None:
        """A subscriber took what there was."""
        self._room.set()
        if self.large and self.subscriptions:
            self._discard(min([subscription.at for subscription in self.subscriptions]))

    def _discard(self, count: int) -> None:
        """Drops the batches before number `count` from the buffer."""
        if count > self.discarded:
            del self.batches[: count - self.discarded]
            self.discarded = count

    def unsubscribe(self, subscription: Subscription) -> None:
        """Removes a subscription; the call ends if no request needs it."""
        self.subscriptions.discard(subscription)
        self._room.set()
        self._notify()
        if self.over or self.subscriptions:
            return
        if self._reader is not None:
            self._reader.cancel()
        elif self._owner is not None and self._owner_left():
            self._owner.cancel()

    def _notify(self) -> None:
        for subscription in [*self.subscriptions]:
            subscription.notify()


class Subscription:
    """One request's view of a shared call: a `Reply`, once `start` has returned."""

    def __init__(self, call: SharedCall, *, stream: bool, at: int = 0, size: int = 0) -> None:
        """`at` and `size`: the number of batches and bytes that the request already has."""
        self.call = call
        self.first: Sequence[Event] = ()
        self.at = at
        self._size = size
        self._stream = stream
        self._draining = False
        self._waiter: asyncio.Future[None] | None = None
        self._take: Take = decline
        call.subscriptions.add(self)

    @property
    def size(self) -> int:
        """Bytes received; for the other form, which has to wait for the end, all bytes so far."""
        if self._draining:
            return 0
        return self._size if self._stream == self.call.stream else self.call.size

    @property
    def deployment(self) -> Deployment:
        assert self.call.reply is not None
        return self.call.reply.deployment

    @property
    def dropped(self) -> tuple[str, ...]:
        assert self.call.reply is not None
        return self.call.reply.dropped

    @property
    def ended(self) -> bool:
        return self.call.complete and self.at == self.call.count

    async def start(self) -> bool:
        """Waits for the first batch; returns `False` if there is none because the call failed."""
        same_form = self._stream == self.call.stream
        while not (self.call.complete or (same_form and self.call.batches)):
            if self.call.over:
                return False
            await self._change()
        events = self.rest()
        if same_form:
            self.first = events
            return True
        try:
            self.first = await in_other_form(events, self.call.size, stream=self._stream)
        except Exception:
            log.exception("an answer could not be shared in the other form")
            return False
        return True

    async def more(self, seconds: float, take: Take = decline) -> Sequence[Event]:
        """`Reply.more`. Raises `AttemptError`, or what else ended the call."""
        try:
            async with asyncio.timeout(seconds + SLACK_SECONDS):
                while self.at == self.call.count:
                    if self.call.error is not None:
                        raise same_failure(self.call.error)
                    await self._change(take)
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        return self.rest()

    async def _change(self, take: Take = decline) -> None:
        """Returns when something has changed, unless that is a batch that `take` takes."""
        self._take, self._waiter = take, asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def notify(self) -> None:
        """Something has changed: gives `take` what is new, or wakes the task that waits."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        try:
            if self.at < self.call.count and not self.call.over and self._take(self._new()):
                self._advance()
                return
        except Exception as error:  # raised where the task waits
            waiter.set_exception(error)
            return
        waiter.set_result(None)

    def rest(self) -> Sequence[Event]:
        """The events that this request has not had yet."""
        events = self._new()
        self._advance()
        return events

    def _new(self) -> Sequence[Event]:
        batches = self.call.batches[self.at - self.call.discarded :]
        return batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]

    def _advance(self) -> None:
        self.at, self._size = self.call.count, self.call.size
        self.call.taken()

    async def drain(self, note: Callable[[Sequence[Event]], None]) -> None:
        """Passes further events to `note` until the call is over or no other request needs it."""
        self._draining = True

        def take(events: Sequence[Event]) -> bool:
            note(events)
            return True

        try:
            while not self.call.over and len(self.call.subscriptions) > 1:
                note(self.rest())
                await self._change(take)
        finally:
            note(self.rest())

    async def close(self) -> None:
        self.call.unsubscribe(self)


def same_failure(error: BaseException) -> BaseException:
    """A separate exception with the same failure, for another request to raise."""
    return AttemptError(error.failure) if isinstance(error, AttemptError) else error


def abandoned() -> AttemptError:
    return AttemptError(failures.unreachable("abandoned", sent=True))
