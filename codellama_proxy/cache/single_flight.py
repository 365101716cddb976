"""One upstream call whose answer is shared by identical requests.

The owner, the request that makes the call, runs it in its own task and publishes each batch. Once a stream has
subscribers, a separate task reads it, so that an owner that is slow or disconnects does not delay them. The call ends
when the answer is complete, when it fails, or when no request needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from codellama_proxy.cache.query import CacheQuery, CallKey
from codellama_proxy.cache.reply import Begin, Reply
from codellama_proxy.cache.shared_answer import SharedAnswer, Subscription
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError

T = TypeVar("T")


class CallHost(Protocol):
    """Where shared calls are found."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is ended with the process."""

    def closed_to_others(self, call: SharedCall) -> None:
        """Called when no more requests may subscribe."""


class SharedCall:
    """A call that is not started, in progress, or over, as its `answer` is."""

    __slots__ = ("_host", "_outlet", "_owner", "_reader", "answer", "key", "owner_view", "query")

    def __init__(self, host: CallHost, query: CacheQuery, key: CallKey | None) -> None:
        """`query`: the owner's; `key`: by which the host finds the call, `None` if it does not."""
        self.query = query
        self.key = key
        self.answer = SharedAnswer(self, stream=query.request.stream)
        self.owner_view: Subscription | None = None
        """The owner's subscription, once a task reads the call."""
        self._host = host
        self._outlet: ChunkOutlet | None = None
        """Sends chunks to the owner's client while nobody else needs them."""
        self._owner: asyncio.Task[Any] | None = None
        """The owner's task, while it waits for the upstream."""
        self._reader: asyncio.Task[None] | None = None
        """Reads a stream that has subscribers."""

    @property
    def failing(self) -> bool:
        """Whether the owner's task is being cancelled while it waits for the upstream."""
        return self._owner is not None and self._owner.cancelling() > 0

    @property
    def others_wait(self) -> bool:
        """Whether requests other than its owner wait for the answer."""
        return len(self.answer.subscriptions) > (0 if self.owner_view is None else 1)

    # --- for its owner -------------------------------------------------------------------------------------------

    async def begin(self, begin: Begin) -> Reply:
        """The reply, whose first batch is then published. Raises what `begin` raises."""
        self.answer.reply = reply = await self._awaited(begin())
        self.answer.publish(reply.first, last=reply.ended)
        self.share()
        return reply

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        """`Reply.more` for the owner."""
        if self.owner_view is not None:
            return await self.owner_view.more(seconds, take)
        answer = self.answer
        assert answer.reply is not None

        def take_and_publish(batch: Sequence[Event]) -> bool:
            if answer.subscriptions or not take(batch):  # for subscribers a task of their own reads on
                return False
            answer.publish(batch)
            return True

        def note_and_publish(batch: Sequence[Event]) -> None:
            assert outlet is not None
            outlet.note(batch)
            answer.publish(batch)

        if outlet is not None and not answer.subscriptions:
            self._outlet = ChunkOutlet(outlet.write, note_and_publish)
        try:
            batch = await self._awaited(answer.reply.more(seconds, take_and_publish, self._outlet))
        finally:
            self._outlet = None
        answer.publish(batch, last=answer.reply.ended)
        self.share()
        return batch

    async def _awaited(self, step: Awaitable[T]) -> T:
        """The result of a step that the owner's task waits for. A failure fails the call."""
        self._owner = asyncio.current_task()
        try:
            return await step
        except Exception as error:
            self.answer.fail(error)
            raise
        except BaseException:
            self.answer.fail(abandoned())
            raise
        finally:
            self._owner = None

    async def leave(self, note: Callable[[Sequence[Event]], None]) -> None:
        """The owner has its answer, or its client disconnected. Returns when no other request needs the call.

        `note` is given the events that the owner did not receive.
        """
        if self.owner_view is not None:
            await self.owner_view.drain(note)
        elif self.answer.over:
            return
        elif self.answer.reply is not None:
            self.answer.fail(abandoned())
        else:
            self.answer.abandon()

    def unshared(self) -> SharedCall:
        """A call like this one for its owner alone; this one is abandoned where requests wait for it."""
        if not self.answer.subscriptions:
            self._host.closed_to_others(self)
            return self
        self.answer.abandon()
        return SharedCall(self._host, self.query, self.key)

    async def close(self) -> None:
        """Returns when its connection is closed."""
        if self.owner_view is not None:
            await self.owner_view.close()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        elif self.answer.reply is not None:
            await self.answer.reply.close()
        self.answer.detach()

    # --- once it is shared ---------------------------------------------------------------------------------------

    def share(self) -> None:
        """Has a task read the rest of a stream that has subscribers, unless the owner is waiting for a part of it."""
        answer = self.answer
        if self._outlet is not None:
            self._outlet.catch_up()
        if not answer.subscriptions or answer.reply is None or answer.over:
            return
        if self._owner is not None or self._reader is not None:
            return
        self.owner_view = Subscription(answer, stream=answer.stream, at=answer.count, size=answer.size)
        self._reader = self._host.spawn(self._read(answer.reply))
        # Whatever ends the task, even before it has begun, is reported to the subscribers.
        self._reader.add_done_callback(lambda _: answer.fail(abandoned()))

    async def _read(self, reply: Reply) -> None:
        answer = self.answer
        try:
            try:
                while not reply.ended:
                    await answer.wait_for_room()
                    batch = await reply.more(self.query.seconds_left(), answer.take)
                    answer.publish(batch, last=reply.ended)
            finally:
                await reply.close()
        except asyncio.CancelledError:
            answer.fail(abandoned())
            raise
        except Exception as error:  # the subscribers raise it
            answer.fail(error)

    def closed(self) -> None:
        """Its answer takes no more subscribers."""
        self._host.closed_to_others(self)

    def unsubscribed(self) -> None:
        """Ends a call that no request needs any more."""
        if self.answer.over or self.answer.subscriptions:
            return
        if self._reader is not None:
            self._reader.cancel()
        elif self._owner is not None and self.query.client_left():
            self._owner.cancel()


def abandoned() -> AttemptError:
    return AttemptError(failures.unreachable("abandoned", sent=True))
