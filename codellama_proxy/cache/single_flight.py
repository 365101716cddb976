"""One upstream call whose answer is shared by identical requests.

The owner, the request that makes the call, runs it in its own task and publishes each batch. Once a stream has
subscribers, a separate task reads it, so that an owner that is slow or disconnects does not delay them. The call ends
when the answer is complete, when it fails, or when no request needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from codellama_proxy.cache.query import CacheQuery, CallKey
from codellama_proxy.cache.reply import Begin, Reply
from codellama_proxy.cache.shared_answer import SharedAnswer, Subscription
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError


class CallHost(Protocol):
    """Where shared calls are found."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is ended with the process."""

    def closed_to_others(self, call: SharedCall) -> None:
        """Called when no more requests may subscribe."""


class SharedCall:
    """A call that is not started, in progress, or over, as its `answer` is.

    For its owner, which pays for it, the call is both the `AnswerSource` and its `Reply`.
    """

    deployment: Deployment
    dropped: tuple[str, ...] = ()
    first: Sequence[Event] = ()
    owner_view: Subscription | None = None
    """The owner's subscription, once a task reads the call."""
    _outlet: ChunkOutlet | None = None
    """Sends chunks to the owner's client while no other request needs them."""
    _owner: asyncio.Task[Any] | None = None
    """The owner's task, while it waits for the upstream."""
    _reader: asyncio.Task[None] | None = None
    """Reads a stream that has subscribers."""

    def __init__(self, host: CallHost, query: CacheQuery, key: CallKey | None) -> None:
        """`query`: the owner's; `key`: by which the host finds the call, `None` if it does not."""
        self.query = query
        self.key = key
        self.answer = SharedAnswer(self, stream=query.request.stream)
        self._host = host

    @property
    def failing(self) -> bool:
        """Whether the owner's task is being cancelled while it waits for the upstream."""
        return self._owner is not None and self._owner.cancelling() > 0

    def others_wait(self) -> bool:
        """Whether requests other than its owner wait for the answer."""
        return len(self.answer.subscriptions) > (0 if self.owner_view is None else 1)

    # --- for its owner -------------------------------------------------------------------------------------------

    async def reply(self, begin: Begin) -> Reply:
        """The reply, whose first batch is published. Raises what `begin` raises."""
        context = self.query.context
        if context.admission is not None and context.admission.max_tokens is not None:
            self._stop_sharing()  # the answer may be cut short by this request's budget
        context.others = self.others_wait
        answer = self.answer
        self._owner = asyncio.current_task()
        try:
            answer.reply = reply = await begin()
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._owner = None
        self.deployment, self.dropped, self.first = reply.deployment, reply.dropped, reply.first
        answer.publish(reply.first, last=reply.ended)
        if answer.subscriptions:
            self.share()
        return self

    @property
    def ended(self) -> bool:
        """Whether the owner has had the last batch."""
        return self.answer.complete if self.owner_view is None else self.owner_view.ended

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
            self._outlet = ChunkOutlet(outlet.write, note_and_publish, raw=outlet.raw)
        self._owner = asyncio.current_task()
        try:
            batch = await answer.reply.more(seconds, take_and_publish, self._outlet)
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._owner = self._outlet = None
        answer.publish(batch, last=answer.reply.ended)
        if answer.subscriptions:
            self.share()
        return batch

    def _failed(self, error: BaseException) -> None:
        """Fails the call: a step that the owner's task waited for raised `error`."""
        self.answer.fail(error if isinstance(error, Exception) else abandoned())

    def _stop_sharing(self) -> None:
        """Makes the answer its owner's alone. It is abandoned where requests wait for it."""
        if self.answer.subscriptions:
            self.answer.abandon()
            self.answer.detach()
            self.answer = SharedAnswer(self, stream=self.query.request.stream)
        else:
            self._host.closed_to_others(self)

    async def leave(self) -> None:
        """The owner has its answer, or its client disconnected. Returns when no other request needs the call.

        The owner pays for all of it, so its context also notes the events that it did not receive.
        """
        answer = self.answer
        if self.owner_view is not None:
            await self.owner_view.drain(self.query.context.note)
        elif answer.over:
            return
        elif answer.reply is not None:
            answer.fail(abandoned())
        else:
            answer.abandon()

    async def close(self) -> None:
        """Returns when its connection is closed."""
        answer = self.answer
        if self.owner_view is not None:
            await self.owner_view.close()
        if self._reader is not None:
            await asyncio.wait({self._reader})
        elif answer.reply is not None:
            await answer.reply.close()
        answer.detach()
        self.query.context.others = no_others  # no reference back to the call: the answer is freed at once

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


def no_others() -> bool:
    """Whether other requests wait for the answer of a call that is over."""
    return False


def abandoned() -> AttemptError:
    return AttemptError(failures.unreachable("abandoned", sent=True))
