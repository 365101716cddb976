"""Where a request's answer comes from: kept, on its way to another request like it, or yet to be asked for.

A request gets a `AnswerSource` before the ledger admits it. One with an answer in hand is a hit: it is admitted without
a hold and costs nothing. Every other one asks upstream; what it gets is kept if it may be, and shared with those
who ask for the same in the meantime. The request that asked pays, even if its client leaves and others stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import orjson

from codellama_proxy.cache import key as caching
from codellama_proxy.cache.answer_source import (
    AnswerSource,
    Begin,
    CachedAnswerSource,
    DirectCall,
    SubscribedAnswer,
)
from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer, CacheDirectives, CacheScope
from codellama_proxy.cache.semantic.embeddings import SemanticQuery, semantic_query
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.single_flight import SLACK, Reply, SharedCall, Subscription, replayed
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.guardrail import guardrail_text, request_for
from codellama_proxy.pricing.charge import Call
from codellama_proxy.request.context import RequestContext

MAINTAIN_EVERY = 1.0
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What taking an answer apart may raise: it costs the copy that was to be kept or replayed, nothing else."""

FlightKey = tuple[bytes, tuple[str, ...]]


class CacheLookup:
    """Holds what is kept and what is in the air."""

    def __init__(self, answers: CacheStorage, semantic: SemanticSelector, time: Time) -> None:
        self._answers = answers
        self._semantic = semantic
        self._time = time
        self._shared: dict[FlightKey, SharedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: set[asyncio.Task[None]] = set()

    async def place(
        self,
        trace: RequestContext,
        chat: InferenceRequest,
        models: Sequence[Model],
        snapshot: Snapshot,
        cache_control: str,
    ) -> AnswerSource:
        """`trace.cache` says afterwards what the cache did. Raises `ProxyError`."""
        wish = caching.directives_of(chat.cache, cache_control)
        able = chat.endpoint == "chat/completions" and snapshot.cache.enabled  # nothing else is kept
        if not (able and trace.settings.cache):
            return DirectCall()
        asking = CacheQuery(trace, chat, models, snapshot, wish)
        if not wish.read:
            trace.cache = "bypass"
            return self._lead(asking, None) if wish.write else DirectCall()
        trace.cache = "miss"
        kept = await self._kept(asking)
        if kept is None and asking.flight_key not in self._shared:
            # The second look is for those who were answered while this one was thought about.
            kept = await self._alike(asking) or await self._kept(asking)
        if kept is not None:
            return kept
        return await self._in_the_air(asking) if wish.write else DirectCall()

    async def _kept(self, asking: CacheQuery) -> CachedAnswerSource | None:
        found = await self._answers.find(asking.key, asking.sharing)
        return self._replay(asking, found, "hit")

    async def _alike(self, asking: CacheQuery) -> CachedAnswerSource | None:
        """The answer to a request that means the same."""
        similar = self._semantic.of(asking.snapshot)
        if similar is None:
            return None
        asked = semantic_query(asking.chat, asking.models[0], asking.sharing, asking.snapshot)
        if asked is None:
            return None
        started = self._time.monotonic()
        nearby = await similar.find(asked, asking.trace, asking.snapshot)
        asking.trace.waited += self._time.monotonic() - started
        asking.similar = asked, nearby.memo
        replay = self._replay(asking, nearby.answer, "semantic")
        if replay is not None:
            asking.trace.similarity = nearby.similarity
        return replay

    def _replay(self, asking: CacheQuery, found: CachedAnswer | None, how: str) -> CachedAnswerSource | None:
        """A kept answer for this request, if it is fresh enough and its giver is still there."""
        if found is None or not asking.wish.fresh(found, asking.snapshot.cache.ttl, self._time.wall()):
            return None
        giver = next((d for d in asking.models[0].deployments if d.id == found.deployment), None)
        if giver is None:
            return None
        said: Sequence[Event] = (found.event,)
        if asking.chat.stream:
            try:
                said = replayed(said, stream=True)
            except UNREADABLE:
                self._answers.troubles["unreadable"] += 1
                return None
        hit(asking, giver, found.dropped, how)
        return CachedAnswerSource(giver, found.dropped, said)

    async def _in_the_air(self, asking: CacheQuery) -> AnswerSource:
        """A seat in somebody's flight, or a flight of its own if there is none or it fails."""
        flight_key = asking.flight_key
        while (flight := self._shared.get(flight_key)) is not None and asking.wish.max_age != 0:
            seat = await self._follow(asking, flight)
            if seat is not None:
                return seat
            if not flight.given_up:  # it was tried, so nobody waits in line to try it again
                return self._lead(asking, None)
        return self._lead(asking, flight_key if flight is None else None)

    async def _follow(self, asking: CacheQuery, flight: SharedCall) -> SubscribedAnswer | None:
        seat = Subscription(flight, asking.chat)
        started = self._time.monotonic()
        try:
            boarded = await self.in_time(asking, seat.board(), slack=0.0)
        except BaseException:
            await seat.close()
            raise
        finally:
            asking.trace.waited += self._time.monotonic() - started
        if not boarded:
            await seat.close()
            return None
        hit(asking, seat.deployment, seat.dropped, "hit")
        return SubscribedAnswer(seat)

    async def in_time(self, asking: CacheQuery, boarding: Awaitable[bool], slack: float = SLACK) -> bool:
        """What `boarding` says. Raises `ProxyError` when it takes longer than the request's deadline."""
        left = asking.trace.started + asking.snapshot.routing.deadline - self._time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0) + slack):
                return await boarding
        except TimeoutError:
            raise ProxyError("deadline_exceeded", "No answer before the deadline.") from None

    def _lead(self, asking: CacheQuery, flight_key: FlightKey | None) -> SharedCallOwner:
        flight = SharedCall(stream=asking.chat.stream)
        if flight_key is not None:
            self._shared[flight_key] = flight
        return SharedCallOwner(self, asking, flight, flight_key)

    # --- for those who lead ----------------------------------------------------------------------------------

    def start(
        self, asking: CacheQuery, flight: SharedCall, flight_key: FlightKey | None, begin: Begin
    ) -> None:
        deadline = asking.trace.started + asking.snapshot.routing.deadline

        def patience() -> float:
            return max(deadline - self._time.monotonic(), 0.0)

        def ended() -> None:
            self.unshare(flight, flight_key)
            if flight.landed:
                self._keep(asking, flight)

        task = flight.start(begin, patience, ended)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def unshare(self, flight: SharedCall, flight_key: FlightKey | None) -> None:
        if flight_key is not None and self._shared.get(flight_key) is flight:
            del self._shared[flight_key]

    def _keep(self, asking: CacheQuery, flight: SharedCall) -> None:
        """Keeps a whole answer, under the name of the model that gave it; at once if it is not long."""
        reply = flight.reply
        if flight.large or reply is None:
            return
        said = [event for batch in flight.batches for event in batch]
        if flight.size > MAX_EVENT_LOOP_BYTES:
            self._later(self._keep_long(asking, reply, said, stream=flight.stream))
            return
        try:
            event = _whole(said, stream=flight.stream)
        except UNREADABLE:
            self._answers.troubles["unreadable"] += 1
            return
        self._put(asking, reply, event)

    async def _keep_long(
        self, asking: CacheQuery, reply: Reply, said: Sequence[Event], *, stream: bool
    ) -> None:
        try:
            event = await asyncio.to_thread(_whole, said, stream=stream)
        except UNREADABLE:
            self._answers.troubles["unreadable"] += 1
            return
        self._put(asking, reply, event)

    def _put(self, asking: CacheQuery, reply: Reply, event: Event | None) -> None:
        if event is None:
            return
        cache, now = asking.snapshot.cache, self._time.wall()
        expires = asking.wish.expiry(cache.ttl, now)
        giver = next((m for m in asking.models if m.name == reply.deployment.name), None)
        if giver is None or expires <= now:
            return
        answer = CachedAnswer(event, reply.deployment.id, reply.dropped, now, expires)
        key = asking.key if giver is asking.models[0] else asking.key_of(giver)
        self._answers.put(key, answer, asking.sharing, giver.name, cache.max_entries)
        similar = self._semantic.of(asking.snapshot)
        if similar is not None and asking.similar is not None and giver is asking.models[0]:
            asked, memo = asking.similar
            self._later(similar.keep(asked, memo, key, answer))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    # --- for the process -------------------------------------------------------------------------------------

    async def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Tidies up, a little at a time, for ever."""
        while True:
            if snapshot().cache.enabled:
                await self._answers.maintain(self._time.wall(), snapshot().cache.max_entries)
            await asyncio.sleep(MAINTAIN_EVERY)

    async def close(self) -> None:
        """Ends what is in the air, and waits for what is being kept."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._keeping, return_exceptions=True)
        await self._semantic.close()


def _whole(said: Sequence[Event], *, stream: bool) -> Event | None:
    """The completion to keep, if it is one. Raises `ValueError` and others for what cannot be read."""
    if sum(len(event.text) if stream else len(event.body) for event in said) > MAX_CACHED_BYTES:
        return None
    event = folding.as_whole(said) if stream else said[0]
    return (
        event if caching.storable(orjson.loads(event.body)) and len(event.body) <= MAX_CACHED_BYTES else None
    )


def hit(asking: CacheQuery, giver: Deployment, dropped: tuple[str, ...], how: str) -> None:
    """Notes an answer that costs nothing, and the request as `giver` got it: with its guardrail."""
    trace, guardrail = asking.trace, asking.snapshot.guardrail
    text = guardrail_text(guardrail, trace.settings, giver)
    trace.cache = how
    trace.serving, trace.dropped = giver, dropped
    trace.sent = request_for(asking.chat, giver, text, guardrail.client_system, None)
    trace.kept = Call(giver, trace.sent, trace.started, whole=True)


class CacheQuery:
    """One request, as far as the cache is concerned."""

    __slots__ = ("chat", "key", "models", "sharing", "similar", "snapshot", "trace", "wish")

    def __init__(
        self,
        trace: RequestContext,
        chat: InferenceRequest,
        models: Sequence[Model],
        snapshot: Snapshot,
        wish: CacheDirectives,
    ) -> None:
        self.trace = trace
        self.chat = chat
        self.models = models
        self.snapshot = snapshot
        self.wish = wish
        self.similar: tuple[SemanticQuery, Any] | None = None
        """How it may be compared, and what a back end found out about it already."""
        self.sharing: CacheScope = caching.scope_of(snapshot, trace.project, trace.key)
        self.key = self.key_of(models[0])

    @property
    def flight_key(self) -> FlightKey:
        """Who shares a call may use the same models."""
        return self.key, tuple([model.name for model in self.models])

    def key_of(self, model: Model) -> bytes:
        """The key of this model's answers to it."""
        snapshot, scope = self.snapshot, self.sharing
        settings = self.trace.settings
        return caching.key_of(scope.kind, scope.name, self.chat, model, snapshot.guardrail, settings)


class SharedCallOwner:
    """The request that asks upstream, and pays."""

    def __init__(
        self, recall: CacheLookup, asking: CacheQuery, flight: SharedCall, flight_key: FlightKey | None
    ) -> None:
        self._recall = recall
        self._asking = asking
        self._flight = flight
        self._flight_key = flight_key
        self._seat: Subscription | None = None

    async def reply(self, begin: Begin) -> Reply:
        trace = self._asking.trace
        if trace.admission is not None and trace.admission.clamped:
            self._keep_to_itself()  # its budget may cut the answer: nobody else's does
        flight = self._flight
        self._seat = Subscription(flight, self._asking.chat)
        trace.others = lambda: len(flight.seats) > 1
        self._recall.start(self._asking, self._flight, self._flight_key, begin)
        if not await self._recall.in_time(self._asking, self._seat.board()):
            assert self._flight.error is not None
            raise self._flight.error
        return self._seat

    def _keep_to_itself(self) -> None:
        self._give_up()
        self._flight, self._flight_key = SharedCall(stream=self._asking.chat.stream), None

    def _give_up(self) -> None:
        self._recall.unshare(self._flight, self._flight_key)
        self._flight.give_up()

    async def leave(self) -> None:
        """A leader who left stays, unseen, until nobody follows: the answer is on its bill."""
        if self._seat is None:
            self._give_up()
            return
        await self._seat.linger(self._asking.trace.note)

    async def close(self) -> None:
        if self._seat is not None:
            await self._seat.close()
            await self._flight.closed()
