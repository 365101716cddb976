"""The sources of a request's answer: an upstream call, the cache, or another request's call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from codellama_proxy.cache.reply import Begin, Reply
from codellama_proxy.cache.shared_answer import Subscription
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline


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
