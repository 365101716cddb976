"""One upstream call that several identical requests wait for: a flight, and a seat in it for each of them.

The call runs in a task of its own, so it does not end with the request that began it: it ends when the answer
is whole, when it fails, or when nobody is aboard any more. Whoever comes late gets what has been said, then
follows live. Who asked for the other form (a stream, or a whole answer) waits for the end and gets it replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import orjson

from codellama_proxy import completion, failures
from codellama_proxy.chat import ChatRequest
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.types import Deployment, Event

SLACK = 0.5
"""Seconds a seat waits longer than its flight does, so that the flight is the first to know why."""


class Reply(Protocol):
    """An answer that has begun, wherever it comes from."""

    @property
    def deployment(self) -> Deployment: ...

    @property
    def dropped(self) -> tuple[str, ...]: ...

    @property
    def first(self) -> Sequence[Event]: ...

    @property
    def ended(self) -> bool:
        """The last batch handed out was the last there is."""

    async def more(self, seconds: float) -> Sequence[Event]:
        """Raises `AttemptFailed`."""

    async def close(self) -> None: ...


class Flight:
    """Not started, in the air, or over: landed (`error` is None), failed, or never shared."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.batches: list[Sequence[Event]] = []
        self.landed = False
        self.error: BaseException | None = None
        self.given_up = False
        """Whoever was to start it did not: nothing was sent."""
        self.riders = 0
        self.reply: Reply | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.landed or self.given_up or self.error is not None

    @property
    def started(self) -> bool:
        return self._task is not None

    def start(
        self,
        begin: Callable[[], Awaitable[Reply]],
        patience: Callable[[Reply], float],
        ended: Callable[[], Any],
    ) -> asyncio.Task[None]:
        """`patience` tells for how long it waits for the next batch; `ended` is called once it is over."""
        self._task = asyncio.get_running_loop().create_task(self._fly(begin, patience, ended))
        return self._task

    async def _fly(
        self,
        begin: Callable[[], Awaitable[Reply]],
        patience: Callable[[Reply], float],
        ended: Callable[[], Any],
    ) -> None:
        try:
            self.reply = reply = await begin()
            try:
                self._publish(reply.first, last=reply.ended, ended=ended)
                while not reply.ended:
                    batch = await reply.more(patience(reply))
                    self._publish(batch, last=reply.ended, ended=ended)
            finally:
                await reply.close()
        except asyncio.CancelledError:
            self._fail(AttemptFailed(failures.unreachable("abandoned", sent=True)), ended)
            raise
        except Exception as error:  # whoever is aboard raises it
            self._fail(error, ended)

    def _publish(self, batch: Sequence[Event], *, last: bool, ended: Callable[[], Any]) -> None:
        self.batches.append(batch)
        self.landed = last
        if last:
            ended()
        self._tell()

    def _fail(self, error: BaseException, ended: Callable[[], Any]) -> None:
        if not self.over:
            self.error = error
            ended()
            self._tell()

    def give_up(self) -> None:
        """Nothing will come of it: followers see to themselves."""
        if not self.over:
            self.given_up = True
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        """Returns when something has changed."""
        await self._news.wait()

    def leave(self) -> None:
        """One rider less; a flight without any ends."""
        self.riders -= 1
        if self.riders <= 0 and self._task is not None and not self.over:
            self._task.cancel()
        self._tell()

    async def closed(self) -> None:
        """Returns when nothing of it is left."""
        if self._task is not None:
            await asyncio.wait({self._task})


class Seat:
    """One request's view of a flight: a `Reply`, once it is `boarded`."""

    def __init__(self, flight: Flight, chat: ChatRequest) -> None:
        self.flight = flight
        self.first: Sequence[Event] = ()
        self._chat = chat
        self._at = 0
        self._left = False
        flight.riders += 1

    @property
    def deployment(self) -> Deployment:
        assert self.flight.reply is not None
        return self.flight.reply.deployment

    @property
    def dropped(self) -> tuple[str, ...]:
        assert self.flight.reply is not None
        return self.flight.reply.dropped

    @property
    def ended(self) -> bool:
        return self.flight.landed and self._at == len(self.flight.batches)

    async def board(self) -> bool:
        """Waits for the beginning; `False` if there will be none. What made a flight fail is in its `error`."""
        same = self._chat.stream == self.flight.stream
        while not (self.flight.landed or (same and self.flight.batches)):
            if self.flight.over:
                return False
            await self.flight.news()
        said = self.rest()
        self.first = said if same else replayed(said, stream=self._chat.stream)
        return True

    async def more(self, seconds: float) -> Sequence[Event]:
        try:
            async with asyncio.timeout(seconds + SLACK):
                while self._at == len(self.flight.batches):
                    if self.flight.error is not None:
                        raise again(self.flight.error)
                    await self.flight.news()
        except TimeoutError:
            raise AttemptFailed(failures.timed_out("idle_timeout")) from None
        return self.rest()

    def rest(self) -> Sequence[Event]:
        """What was said that this request has not had."""
        batches = self.flight.batches[self._at :]
        self._at += len(batches)
        return batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]

    async def alone(self) -> None:
        """Returns when the flight is over, or nobody else is aboard."""
        while not self.flight.over and self.flight.riders > 1:
            await self.flight.news()

    async def close(self) -> None:
        if not self._left:
            self._left = True
            self.flight.leave()


def again(error: BaseException) -> BaseException:
    """The same failure, for one more who hears it."""
    return AttemptFailed(error.failure) if isinstance(error, AttemptFailed) else error


def replayed(said: Sequence[Event], *, stream: bool) -> Sequence[Event]:
    """A whole answer in the other form."""
    if stream:
        return completion.split(orjson.loads(said[0].body))
    return (completion.whole_event(folded(said)),)


def folded(said: Sequence[Event]) -> bytes:
    return orjson.dumps(completion.fold([orjson.loads(event.body) for event in said if event.body]))
