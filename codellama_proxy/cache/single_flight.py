"""One upstream call whose answer several identical requests get: a shared call, and a subscription for each of them.

The request that asks upstream drives the call in its own task and adds each batch to the call's buffer. Once a stream
has subscribers, a task of its own reads it, so that neither a slow owner nor one that leaves holds the others up. The
call ends when the answer is complete, when it fails, or when no request needs it any more. A late subscriber gets what
is in the buffer and then follows live. A request for the other form (a stream, or a whole answer) waits for the end
and gets the answer converted.

The upstream is read at most 256 KiB ahead of the fastest subscriber. A large answer takes no more subscribers, and what
all of them have had is dropped from its buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from codellama_proxy.cache.reply import Begin, Reply, in_other_form
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_AHEAD_BYTES = 256 << 10
"""How far a shared call may be ahead of its fastest subscriber."""
MAX_SHARED_BYTES = 8 << 20
"""Bytes of an answer that are kept for late subscribers."""
SLACK_SECONDS = 0.5
"""How much longer than the call itself a subscriber waits, so that the call reports the reason first."""


class SharedCall:
    """Not started, in progress, or over: complete (`error` is None), failed, or abandoned before it was started."""

    def __init__(
        self,
        *,
        stream: bool,
        seconds_left: Callable[[], float],
        owner_left: Callable[[], bool],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        closed_to_others: Callable[[SharedCall], Any],
    ) -> None:
        """`seconds_left`: how long the next batch may take; `owner_left`: whether its owner's client has left;
        `spawn` makes a task; `closed_to_others` is called when no more requests may subscribe.
        """
        self.stream = stream
        self.batches: list[Sequence[Event]] = []
        """All of the answer, unless it is `large`."""
        self.forgotten = 0
        """Number of batches before those."""
        self.size = 0
        """Bytes of the whole answer so far."""
        self.complete = False
        self.error: BaseException | None = None
        self.abandoned = False
        """It was never started: no request was sent."""
        self.subscriptions: set[Subscription] = set()
        self.reply: Reply | None = None
        self.owner_view: Subscription | None = None
        """The owner's own subscription, once a task reads the call."""
        self._seconds_left = seconds_left
        self._owner_left = owner_left
        self._spawn = spawn
        self._closed_to_others = closed_to_others
        self._owner: asyncio.Task[Any] | None = None
        """The owner's task, while it waits for the upstream."""
        self._reader: asyncio.Task[None] | None = None
        """Reads a stream that has subscribers."""
        self._changed: asyncio.Event | None = None
        self._room: asyncio.Event | None = None

    @property
    def over(self) -> bool:
        return self.complete or self.abandoned or self.error is not None

    @property
    def count(self) -> int:
        """Number of batches so far."""
        return self.forgotten + len(self.batches)

    @property
    def large(self) -> bool:
        return self.size > MAX_SHARED_BYTES

    @property
    def failing(self) -> bool:
        """The owner is being cancelled while it waits for the upstream."""
        return self._owner is not None and self._owner.cancelling() > 0

    @property
    def others_wait(self) -> bool:
        """Requests other than its owner wait for the answer."""
        return len(self.subscriptions) > (0 if self.owner_view is None else 1)

    # --- for its owner ---------------------------------------------------------------------------------------

    async def begin(self, begin: Begin) -> Reply:
        """The reply, whose first batch is then in the buffer. Raises what `begin` raises."""
        self.reply = reply = await self._driven(begin())
        self._publish(reply.first, last=reply.ended)
        self.share()
        return reply

    async def more(self, seconds: float) -> Sequence[Event]:
        """The next batch for the owner. Raises what `Reply.more` raises."""
        if self.owner_view is not None:
            return await self.owner_view.more(seconds)
        assert self.reply is not None
        batch = await self._driven(self.reply.more(seconds))
        self._publish(batch, last=self.reply.ended)
        self.share()
        return batch

    async def _driven(self, step: Awaitable[T]) -> T:
        """The result of a step that the owner's task waits for. A failure fails the call."""
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
        self.size += sum([len(event.body) for event in batch])
        self.complete = last
        if last or self.large != was_large:
            self._close_to_others()
        if self.subscriptions:
            self._notify()
        elif self.large:
            self._forget(self.count)

    def _fail(self, error: BaseException) -> None:
        """Subscribers raise `error`."""
        if not self.over:
            self.error = error
            self._close_to_others()
            self._notify()

    async def leave(self, note: Callable[[Sequence[Event]], None]) -> None:
        """The owner has its answer, or its client left: returns when no other request needs the call any more.

        `note` is given the events that the owner did not get to.
        """
        if self.owner_view is not None:
            await self.owner_view.drain(note)
        elif self.reply is not None:
            self._fail(abandoned())
        else:
            self.abandon()

    def unshared(self) -> SharedCall:
        """A call like this one for its owner alone; this one is abandoned."""
        self.abandon()
        return SharedCall(
            stream=self.stream,
            seconds_left=self._seconds_left,
            owner_left=self._owner_left,
            spawn=self._spawn,
            closed_to_others=self._closed_to_others,
        )

    def abandon(self) -> None:
        """It is not going to be started: subscribers ask for themselves."""
        if not self.over:
            self.abandoned = True
            self._close_to_others()
            self._notify()

    async def close(self) -> None:
        """Returns when its connection is closed."""
        if self.owner_view is not None:
            await self.owner_view.close()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        elif self.reply is not None:
            await self.reply.close()

    # --- once it is shared -----------------------------------------------------------------------------------

    def share(self) -> None:
        """Has a task read the rest of a stream that has subscribers, unless the owner is waiting for a part of it."""
        if not self.subscriptions or self.reply is None or self.over:
            return
        if self._owner is not None or self._reader is not None:
            return
        self.owner_view = Subscription(self, stream=self.stream, at=self.count, size=self.size)
        self._reader = self._spawn(self._read(self.reply))
        # Whatever ends the task, even before it has begun, is reported to the subscribers.
        self._reader.add_done_callback(lambda _: self._fail(abandoned()))

    async def _read(self, reply: Reply) -> None:
        try:
            try:
                while not reply.ended:
                    await self._wait_for_subscribers()
                    batch = await reply.more(self._seconds_left())
                    self._publish(batch, last=reply.ended)
            finally:
                await reply.close()
        except asyncio.CancelledError:
            self._fail(abandoned())
            raise
        except Exception as error:  # the subscribers raise it
            self._fail(error)

    async def _wait_for_subscribers(self) -> None:
        while self.subscriptions and self.size - max([s.size for s in self.subscriptions]) > MAX_AHEAD_BYTES:
            self._room = asyncio.Event()
            await self._room.wait()

    # --- for its subscribers ---------------------------------------------------------------------------------

    def taken(self) -> None:
        """A subscriber took what there was."""
        self._make_room()
        if self.large and self.subscriptions:
            self._forget(min([subscription.at for subscription in self.subscriptions]))

    def _forget(self, count: int) -> None:
        """Drops the first `count` batches of the answer from the buffer."""
        if count > self.forgotten:
            del self.batches[: count - self.forgotten]
            self.forgotten = count

    def unsubscribe(self, subscription: Subscription) -> None:
        """A call that no request needs any more ends."""
        self.subscriptions.discard(subscription)
        self._make_room()
        if not self.subscriptions:
            self._end_if_unneeded()
        self._notify()

    def _end_if_unneeded(self) -> None:
        if self.over or self.subscriptions:
            return
        if self._reader is not None:
            self._reader.cancel()
        elif self._owner is not None and self._owner_left():
            self._owner.cancel()

    def _close_to_others(self) -> None:
        """What is done with an answer besides answering never costs the answer."""
        try:
            self._closed_to_others(self)
        except Exception:
            log.exception("an answer could not be kept")

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _notify(self) -> None:
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.set()

    async def change(self) -> None:
        """Returns when something has changed."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()


class Subscription:
    """One request's view of a shared call: a `Reply`, once `start` has returned."""

    def __init__(self, call: SharedCall, *, stream: bool, at: int = 0, size: int = 0) -> None:
        """`at` and `size`: the batches and bytes that it has had already."""
        self.call = call
        self.first: Sequence[Event] = ()
        self.at = at
        self._size = size
        self._stream = stream
        self._draining = False
        call.subscriptions.add(self)

    @property
    def size(self) -> int:
        """Bytes it has had, or would have had if it did not have to wait for the end."""
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
        """Waits for the first batch; `False` if there will be none."""
        same_form = self._stream == self.call.stream
        while not (self.call.complete or (same_form and self.call.batches)):
            if self.call.over:
                return False
            await self.call.change()
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

    async def more(self, seconds: float) -> Sequence[Event]:
        """The next batch. Raises `AttemptError`, or what else ended the call."""
        try:
            async with asyncio.timeout(seconds + SLACK_SECONDS):
                while self.at == self.call.count:
                    if self.call.error is not None:
                        raise same_failure(self.call.error)
                    await self.call.change()
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        return self.rest()

    def rest(self) -> Sequence[Event]:
        """The events that this request has not had yet."""
        batches = self.call.batches[self.at - self.call.forgotten :]
        self.at, self._size = self.call.count, self.call.size
        self.call.taken()
        return batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]

    async def drain(self, note: Callable[[Sequence[Event]], None]) -> None:
        """Passes the rest to `note` until the call is over, or no other request needs it."""
        self._draining = True
        try:
            while not self.call.over and len(self.call.subscriptions) > 1:
                await self.call.change()
                note(self.rest())
        finally:
            note(self.rest())

    async def close(self) -> None:
        self.call.unsubscribe(self)


def same_failure(error: BaseException) -> BaseException:
    """The same failure, for one more request that raises it."""
    return AttemptError(error.failure) if isinstance(error, AttemptError) else error


def abandoned() -> AttemptError:
    return AttemptError(failures.unreachable("abandoned", sent=True))
