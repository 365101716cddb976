"""Stores complete answers in the cache, under the model that generated them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from codellama_proxy.cache.key import COMPLETE, MAX_CACHED_BYTES, CachedAnswer, storable
from codellama_proxy.cache.query import CacheQuery
from codellama_proxy.cache.reply import Reply
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.shared_answer import MAX_SHARED_BYTES, SharedAnswer
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES, completion_in

FINISHED = COMPLETE | {None}
"""The finish reasons of the events of answers that may be stored."""
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Exceptions of parsing an answer. The answer is then not stored or not replayed; the request is unaffected."""


class AnswerKeeper:
    """Stores answers; large ones in background tasks."""

    def __init__(self, storage: CacheStorage, semantic: SemanticSelector, time: Time) -> None:
        self._storage = storage
        self._semantic = semantic
        self._time = time
        self.tasks: set[asyncio.Task[None]] = set()

    def keep(self, query: CacheQuery, answer: SharedAnswer) -> None:
        """Stores an answer if it is complete."""
        reply, batches, stream = answer.reply, answer.batches, answer.stream
        if reply is None or answer.size > MAX_SHARED_BYTES:
            return
        events = batches[0] if len(batches) == 1 else [event for batch in batches for event in batch]
        if not FINISHED.issuperset([event.finish_reason for event in events]):
            return
        if answer.size > MAX_EVENT_LOOP_BYTES:
            self._later(self._keep_long(query, reply, events, stream=stream))
        else:
            self._put(query, reply, self._completion(events, stream=stream))

    async def _keep_long(
        self, query: CacheQuery, reply: Reply, events: Sequence[Event], *, stream: bool
    ) -> None:
        event = await asyncio.to_thread(self._completion, events, stream=stream)
        self._put(query, reply, event)

    def _completion(self, events: Sequence[Event], *, stream: bool) -> Event | None:
        try:
            return completion_to_keep(events, stream=stream)
        except UNREADABLE:
            self._storage.troubles["unreadable"] += 1
            return None

    def _put(self, query: CacheQuery, reply: Reply, event: Event | None) -> None:
        """Stores a completion, also in the semantic backend."""
        deployment, asked, cache = reply.deployment, query.chain.models[0], query.snapshot.cache
        now = self._time.wall()
        expires = query.directives.expiry(cache.ttl, now)
        if event is None or expires <= now:
            return
        name, key = deployment.name, query.key
        if name != asked.name:
            model = query.chain.named(name)
            if model is None:
                return
            key = query.key_of(model)
        answer = CachedAnswer(event, deployment.id, reply.dropped, now, expires)
        self._storage.put(key, answer, query.scope, name, cache.max_entries)
        if query.semantic is None or key != query.key:
            return
        backend = self._semantic.of(query.snapshot)
        if backend is not None:
            semantic_query, backend_state = query.semantic
            self._later(backend.keep(semantic_query, backend_state, key, answer))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def completion_to_keep(events: Sequence[Event], *, stream: bool) -> Event | None:
    """The completion to store; `None` if it must not be stored. Raises `UNREADABLE` for an invalid answer."""
    event = folding.as_whole(events) if stream else events[0]
    if len(event.body) > MAX_CACHED_BYTES or not storable(completion_in(event)):
        return None
    # As bytes only: without `completion`.
    return Event(event.body, event.content, event.text, event.usage, event.finish_reason, event.model)
