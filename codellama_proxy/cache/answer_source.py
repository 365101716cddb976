"""Where an answer comes from, as a request sees it: from upstream, from what was kept, or from another's flight."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from codellama_proxy.cache.single_flight import Reply, Subscription
from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event

Begin = Callable[[], Awaitable[Reply]]


class AnswerSource(Protocol):
    """A request's place at its answer. Whoever got it calls `leave`, then `close`, whatever happens."""

    async def reply(self, begin: Begin) -> Reply:
        """The answer; `begin` asks upstream for it. Raises what `begin` raises."""

    async def leave(self) -> None:
        """Returns when what the request has to pay for is known."""

    async def close(self) -> None: ...


class DirectCall:
    """Nothing is kept and nothing is shared."""

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
    """A kept answer: a `AnswerSource` and its `Reply` in one."""

    ended = True

    def __init__(self, deployment: Deployment, dropped: tuple[str, ...], first: Sequence[Event]) -> None:
        self.deployment = deployment
        self.dropped = dropped
        self.first = first

    async def reply(self, begin: Begin) -> Reply:
        del begin
        return self

    async def more(self, seconds: float) -> Sequence[Event]:
        raise NotImplementedError(f"nothing comes after the whole, not in {seconds} s either")

    async def leave(self) -> None:
        return

    async def close(self) -> None:
        return


class SubscribedAnswer:
    """A seat in another request's flight."""

    def __init__(self, seat: Subscription) -> None:
        self._seat = seat

    async def reply(self, begin: Begin) -> Reply:
        del begin
        return self._seat

    async def leave(self) -> None:
        return

    async def close(self) -> None:
        await self._seat.close()
