"""The sources of a request's answer: an upstream call, the cache, or another request's call."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from codellama_proxy.cache.reply import Begin, Reply
from codellama_proxy.cache.shared_answer import Subscription
from codellama_proxy.cache.single_flight import SharedCall
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline
from codellama_proxy.request.context import RequestContext


class AnswerSource(Protocol):
    """Where an answer comes from. The request must call `leave`, then `close`."""

    async def reply(self, begin: Begin) -> Reply:
        """The answer; `begin` starts the upstream call if one is needed. Raises what `begin` raises."""

    async def leave(self) -> None:
        """Returns when the request's charge is final."""

    async def close(self) -> None: ...


class DirectCall:
    """An upstream call whose answer is neither cached nor shared."""

    def __init__(self) -> None:
        self._reply: Reply | None = None

    async def reply(self, begin: Begin) -> Reply:
        self._reply = await begin()
        return self._reply

    async def leave(self) -> None:
        return

    async def close(self) -> None:
        if self._reply is not None:
            await self._reply.close()


class CachedAnswerSource:
    """A cached answer: both an `AnswerSource` and its `Reply`."""

    ended = True

    def __init__(self, deployment: Deployment, dropped: tuple[str, ...], first: Sequence[Event]) -> None:
        self.deployment = deployment
        self.dropped = dropped
        self.first = first

    async def reply(self, begin: Begin) -> Reply:
        del begin
        return self

    async def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Sequence[Event]:
        raise NotImplementedError(f"a cached answer has a single batch: {seconds}, {take}, {outlet}")

    async def leave(self) -> None:
        return

    async def close(self) -> None:
        return


class SubscribedAnswer:
    """The answer of another request's call."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def reply(self, begin: Begin) -> Reply:
        del begin
        return self._subscription

    async def leave(self) -> None:
        return

    async def close(self) -> None:
        await self._subscription.close()


class SharedCallOwner:
    """The request that makes a shared call, and pays for it: both an `AnswerSource` and its `Reply`."""

    def __init__(self, context: RequestContext, call: SharedCall) -> None:
        self._context = context
        self._call = call
        self.dropped: tuple[str, ...] = ()
        self.first: Sequence[Event] = ()

    async def reply(self, begin: Begin) -> Reply:
        admission = self._context.admission
        if admission is not None and admission.max_tokens is not None:
            self._call = self._call.unshared()  # the answer may be cut short by this request's budget
        self._context.others = lambda: self._call.others_wait
        self._reply = reply = await self._call.begin(begin)
        self.dropped, self.first = reply.dropped, reply.first
        return self

    @property
    def deployment(self) -> Deployment:
        return self._reply.deployment

    @property
    def ended(self) -> bool:
        view = self._call.owner_view
        return self._reply.ended if view is None else view.ended

    def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Awaitable[Sequence[Event]]:
        return self._call.more(seconds, take, outlet)

    async def leave(self) -> None:
        """Waits until no other request needs the answer, because the owner pays for all of it."""
        await self._call.leave(self._context.note)

    async def close(self) -> None:
        await self._call.close()
        self._context.others = lambda: False  # no reference back to the call: the answer is freed at once
