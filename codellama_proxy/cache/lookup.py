"""Finds the source of a request's answer: the cache, another request's call, or a call of its own.

A request gets an `AnswerSource` before admission. A request with a cached or shared answer is a hit: it is admitted
without a hold and costs nothing. Every other request calls an upstream; its answer is stored if permitted, and shared
with identical requests that arrive in the meantime. The owner of a call pays for it even if its client disconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from codellama_proxy.cache import key as keys
from codellama_proxy.cache.answer_source import (
    AnswerSource,
    CachedAnswerSource,
    DirectCall,
    SubscribedAnswer,
)
from codellama_proxy.cache.keeper import UNREADABLE, AnswerKeeper
from codellama_proxy.cache.key import CachedAnswer
from codellama_proxy.cache.query import CacheQuery, CallKey
from codellama_proxy.cache.reply import converted
from codellama_proxy.cache.semantic.embeddings import SemanticBackend, semantic_query
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.shared_answer import Subscription
from codellama_proxy.cache.single_flight import SharedCall
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.offload import LARGE_BODY_BYTES, off_loop
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain

MAINTENANCE_SECONDS = 1.0
"""Interval between maintenance steps."""


class CacheLookup:
    """Looks up answers in the storage, the semantic backend and the shared calls in progress."""

    def __init__(self, storage: CacheStorage, semantic: SemanticSelector, time: Time) -> None:
        self._storage = storage
        self._semantic = semantic
        self._keeper = AnswerKeeper(storage, semantic, time)
        self._time = time
        self._shared: dict[CallKey, SharedCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def find_source(
        self,
        context: RequestContext,
        request: InferenceRequest,
        chain: Chain,
        snapshot: Snapshot,
        cache_control: str,
    ) -> AnswerSource:
        """The source of the answer. Sets `context.cache` to the lookup's result. Raises `ProxyError`."""
        directives = keys.directives_of(request.cache, cache_control)
        cacheable = request.endpoint == "chat/completions" and snapshot.cache.enabled
        if not (cacheable and context.settings.cache):
            return DirectCall()
        if request.native is not None and any(request.dialect in one.relays for one in chain.deployments):
            return (
                DirectCall()
            )  # a candidate answers in the client's dialect, with parts that a chat does not have
        needs = context, request, chain, snapshot, directives, self._time.monotonic
        small = request.size < LARGE_BODY_BYTES
        query = CacheQuery(*needs) if small else await asyncio.to_thread(CacheQuery, *needs)
        if not directives.read:
            context.cache = "bypass"
            return self._own_call(query, None) if directives.write else DirectCall()
        context.cache = "miss"
        if self._storage.may_have(query.key):
            source = await self._identical(query)
            if source is not None:
                return source
        in_progress = query.call_key in self._shared
        if snapshot.cache.semantic is not None and not in_progress:
            source = await self._similar(query)
            if source is not None:
                return source
            in_progress = query.call_key in self._shared
        if not directives.write:
            return DirectCall()
        return await self._in_progress(query) if in_progress else self._own_call(query, query.call_key)

    async def _identical(self, query: CacheQuery) -> CachedAnswerSource | None:
        return self._replay(query, await self._storage.find(query.key, query.scope), "hit")

    async def _similar(self, query: CacheQuery) -> CachedAnswerSource | None:
        """A stored answer to a similar request, or one to this request that was stored during the search."""
        backend = self._semantic.of(query.snapshot)
        if backend is None:
            return None
        return await self._most_similar(query, backend) or await self._identical(query)

    async def _most_similar(self, query: CacheQuery, backend: SemanticBackend) -> CachedAnswerSource | None:
        request, model = query.request, query.chain.models[0]
        wanted = await off_loop(request.size, semantic_query, request, model, query.scope, query.snapshot)
        if wanted is None:
            return None
        started = self._time.monotonic()
        match = await backend.find(wanted, query.context, query.snapshot)
        query.context.waited += self._time.monotonic() - started
        query.semantic = wanted, match.memo
        source = self._replay(query, match.answer, "semantic")
        if source is not None:
            query.context.similarity = match.similarity
        return source

    def _replay(self, query: CacheQuery, answer: CachedAnswer | None, kind: str) -> CachedAnswerSource | None:
        """A stored answer for this request, if it is fresh and its deployment still exists."""
        if answer is None or not query.directives.fresh(answer, query.snapshot.cache.ttl, self._time.wall()):
            return None
        for deployment in query.chain.models[0].deployments:
            if deployment.id == answer.deployment:
                break
        else:
            return None
        events = self._chunks(query.key, answer) if query.request.stream else (answer.event,)
        if not events:
            return None
        query.note_hit(deployment, answer.dropped, kind)
        return CachedAnswerSource(deployment, answer.dropped, events)

    def _chunks(self, key: bytes, answer: CachedAnswer) -> Sequence[Event]:
        """The answer as the events of a stream, none if it cannot be read. Kept in memory for the next request."""
        if answer.chunks:
            return answer.chunks
        try:
            chunks = converted((answer.event,), stream=True)
        except UNREADABLE:
            self._storage.troubles["unreadable"] += 1
            return ()
        self._storage.memory.replace(key, answer, answer._replace(chunks=chunks))
        return chunks

    async def _in_progress(self, query: CacheQuery) -> AnswerSource:
        """A subscription to another request's call, or a call of its own if there is none or it fails."""
        key = query.call_key
        while (call := self._shared.get(key)) is not None and query.directives.max_age != 0:
            answer = call.answer
            source = None if call.failing else await self._subscribe(query, call)
            if source is not None:
                return source
            if not answer.abandoned:  # it failed: its subscribers call separately instead of queueing again
                return self._own_call(query, None)
        return self._own_call(query, key if call is None else None)

    async def _subscribe(self, query: CacheQuery, call: SharedCall) -> SubscribedAnswer | None:
        subscription = Subscription(call.answer, stream=query.request.stream)
        call.share()
        started = self._time.monotonic()
        try:
            begun = await query.in_time(subscription.start())
        except BaseException:
            query.context.following = True
            await subscription.close()
            raise
        finally:
            query.context.waited += self._time.monotonic() - started
        if not begun:
            await subscription.close()
            return None
        query.note_hit(subscription.deployment, subscription.dropped, "hit")
        return SubscribedAnswer(subscription)

    def _own_call(self, query: CacheQuery, key: CallKey | None) -> SharedCall:
        """A call whose answer is stored; shared under `key` unless that is `None`."""
        call = SharedCall(self, query, key)
        if key is not None:
            self._shared[key] = call
        return call

    def closed_to_others(self, call: SharedCall) -> None:
        """No more requests are sent to this call; its answer is stored if it is complete."""
        if call.key is not None and self._shared.get(call.key) is call:
            del self._shared[call.key]
        if call.answer.complete:
            self._keeper.keep(call.query, call.answer)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that `close` ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- for the process -------------------------------------------------------------------------------------

    async def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Maintains the storage in small steps. Never returns."""
        while True:
            if snapshot().cache.enabled:
                await self._storage.maintain(self._time.wall(), snapshot().cache.max_entries)
            await asyncio.sleep(MAINTENANCE_SECONDS)

    async def purge(self, project: str | None, model: str | None) -> None:
        """Deletes the answers to a project, or of a model; `None`: of all."""
        await self._storage.purge(project, model)

    async def close(self) -> None:
        """Ends the shared calls and waits for answers that are being stored."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._keeper.tasks, return_exceptions=True)
        await self._semantic.close()
