"""One upstream call that several identical requests wait for: a flight, and a seat in it for each of them.

The call runs in a task of its own, so it does not end with the request that began it: it ends when the answer
is whole, when it fails, or when nobody is aboard any more. Whoever comes late gets what has been said, then
follows live. Who asked for the other form (a stream, or a whole answer) waits for the end and gets it replayed.

A flight is never far ahead of its fastest rider, so a client that reads slowly slows its upstream down as it would
alone. One that has grown large is shared no further, and forgets what all aboard have had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest

log = logging.getLogger(__name__)

AHEAD = 256 << 10
"""Bytes a flight may be ahead of its fastest rider."""
LARGE = 8 << 20
"""Bytes up to which all that was said is remembered."""
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
        """Raises `AttemptError`: broken, silent for its idle timeout, or not here within `seconds`."""

    async def close(self) -> None: ...


class SharedCall:
    """Not started, in the air, or over: landed (`error` is None), failed, or never shared."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.batches: list[Sequence[Event]] = []
        """What is remembered of it: all, unless it is `large`."""
        self.forgotten = 0
        """How many batches before those."""
        self.size = 0
        """Bytes of all that was said."""
        self.landed = False
        self.error: BaseException | None = None
        self.given_up = False
        """Whoever was to start it did not: nothing was sent."""
        self.seats: set[Subscription] = set()
        self.reply: Reply | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.landed or self.given_up or self.error is not None

    @property
    def said(self) -> int:
        """How many batches there were."""
        return self.forgotten + len(self.batches)

    @property
    def large(self) -> bool:
        return self.size > LARGE

    def start(
        self,
        begin: Callable[[], Awaitable[Reply]],
        patience: Callable[[], float],
        ended: Callable[[], Any],
    ) -> asyncio.Task[None]:
        """`patience`: for how long it waits for the next batch; `ended` is called when nobody may join any more."""
        self._task = asyncio.get_running_loop().create_task(self._fly(begin, patience, ended))
        # Whatever ends the task, even before it has begun, reaches those who wait.
        self._task.add_done_callback(lambda _: self._fail(abandoned(), ended))
        return self._task

    async def _fly(
        self,
        begin: Callable[[], Awaitable[Reply]],
        patience: Callable[[], float],
        ended: Callable[[], Any],
    ) -> None:
        try:
            self.reply = reply = await begin()
            try:
                self._publish(reply.first, last=reply.ended, ended=ended)
                while not reply.ended:
                    await self._wait_for_riders()
                    batch = await reply.more(patience())
                    self._publish(batch, last=reply.ended, ended=ended)
            finally:
                await reply.close()
        except asyncio.CancelledError:
            self._fail(abandoned(), ended)
            raise
        except Exception as error:  # whoever is aboard raises it
            self._fail(error, ended)

    def _publish(self, batch: Sequence[Event], *, last: bool, ended: Callable[[], Any]) -> None:
        was_large = self.large
        self.batches.append(batch)
        self.size += sum([len(event.body) for event in batch])
        self.landed = last
        if last or self.large != was_large:
            _call(ended)
        self._tell()

    async def _wait_for_riders(self) -> None:
        while self.seats and self.size - max([seat.had for seat in self.seats]) > AHEAD:
            self._room.clear()
            await self._room.wait()

    def taken(self) -> None:
        """Somebody aboard took what there was."""
        self._room.set()
        if self.large and self.seats:
            done = min([seat.at for seat in self.seats]) - self.forgotten
            if done > 0:
                self.forgotten += done
                del self.batches[:done]

    def _fail(self, error: BaseException, ended: Callable[[], Any]) -> None:
        if not self.over:
            self.error = error
            _call(ended)
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

    def leave(self, seat: Subscription) -> None:
        """One rider less; a flight without any ends."""
        self.seats.discard(seat)
        self._room.set()
        if not self.seats and self._task is not None and not self.over:
            self._task.cancel()
        self._tell()

    async def closed(self) -> None:
        """Returns when nothing of it is left."""
        if self._task is not None:
            await asyncio.wait({self._task})


class Subscription:
    """One request's view of a flight: a `Reply`, once it is `boarded`."""

    def __init__(self, flight: SharedCall, chat: InferenceRequest) -> None:
        self.flight = flight
        self.first: Sequence[Event] = ()
        self.at = 0
        """How many batches it has had."""
        self._bytes = 0
        self._stream = chat.stream
        self._lingers = False
        """It is there for the bill only."""
        flight.seats.add(self)

    @property
    def had(self) -> int:
        """Bytes it has had, or would have had if it did not have to wait for the end."""
        if self._lingers:
            return 0
        return self._bytes if self._stream == self.flight.stream else self.flight.size

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
        return self.flight.landed and self.at == self.flight.said

    async def board(self) -> bool:
        """Waits for the beginning; `False` if there will be none. What made a flight fail is in its `error`."""
        same = self._stream == self.flight.stream
        while not (self.flight.landed or (same and self.flight.batches)):
            if self.flight.over:
                return False
            await self.flight.news()
        said = self.rest()
        if same:
            self.first = said
            return True
        try:
            self.first = await in_other_form(said, self.flight.size, stream=self._stream)
        except Exception:
            log.exception("an answer could not be shared in the other form")
            return False
        return True

    async def more(self, seconds: float) -> Sequence[Event]:
        try:
            async with asyncio.timeout(seconds + SLACK):
                while self.at == self.flight.said:
                    if self.flight.error is not None:
                        raise again(self.flight.error)
                    await self.flight.news()
        except TimeoutError:
            raise AttemptError(failures.timed_out("idle_timeout")) from None
        return self.rest()

    def rest(self) -> Sequence[Event]:
        """What was said that this request has not had."""
        batches = self.flight.batches[self.at - self.flight.forgotten :]
        self.at, self._bytes = self.flight.said, self.flight.size
        self.flight.taken()
        return batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]

    async def linger(self, note: Callable[[Sequence[Event]], None]) -> None:
        """Listens on until the flight is over, or nobody else is aboard."""
        self._lingers = True
        try:
            while not self.flight.over and len(self.flight.seats) > 1:
                await self.flight.news()
                note(self.rest())
        finally:
            note(self.rest())

    async def close(self) -> None:
        self.flight.leave(self)


def again(error: BaseException) -> BaseException:
    """The same failure, for one more who hears it."""
    return AttemptError(error.failure) if isinstance(error, AttemptError) else error


def abandoned() -> AttemptError:
    return AttemptError(failures.unreachable("abandoned", sent=True))


def _call(ended: Callable[[], Any]) -> None:
    """What is done with an answer besides answering never costs the answer."""
    try:
        ended()
    except Exception:
        log.exception("an answer could not be kept")


async def in_other_form(said: Sequence[Event], size: int, *, stream: bool) -> Sequence[Event]:
    """What was said, as a stream or whole; a large answer is not converted on the event loop."""
    if size <= MAX_EVENT_LOOP_BYTES:
        return replayed(said, stream=stream)
    return await asyncio.to_thread(replayed, said, stream=stream)


def replayed(said: Sequence[Event], *, stream: bool) -> Sequence[Event]:
    """A whole answer in the other form. Raises `ValueError` and others for what is none."""
    return folding.as_stream(said[0]) if stream else (folding.as_whole(said),)
