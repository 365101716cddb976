"""Stores complete answers in the cache, under the model that generated them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from codellama_proxy.cache import key as keys
from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer
from codellama_proxy.cache.query import CacheQuery
from codellama_proxy.cache.reply import Reply
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.shared_answer import SharedAnswer
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES, completion_in

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
        """Stores a complete answer: at once if it is small, else in a task."""
        reply = answer.reply
        if answer.large or reply is None:
            return
        events = [event for batch in answer.batches for event in batch]
        if answer.size > MAX_EVENT_LOOP_BYTES:
            self._later(self._keep_long(query, reply, events, stream=answer.stream))
            return
        try:
            event = completion_to_keep(events, stream=answer.stream)
        except UNREADABLE:
            self._storage.troubles["unreadable"] += 1
            return
        self._put(query, reply, event)

    async def _keep_long(
        self, query: CacheQuery, reply: Reply, events: Sequence[Event], *, stream: bool
    ) -> None:
        try:
            event = await asyncio.to_thread(completion_to_keep, events, stream=stream)
        except UNREADABLE:
            self._storage.troubles["unreadable"] += 1
            return
        self._put(query, reply, event)

    def _put(self, query: CacheQuery, reply: Reply, event: Event | None) -> None:
        if event is None:
            return
        cache, now = query.snapshot.cache, self._time.wall()
        expires = query.directives.expiry(cache.ttl, now)
        model = query.chain.named(reply.deployment.name)
        if model is None or expires <= now:
            return
        answer = CachedAnswer(event, reply.deployment.id, reply.dropped, now, expires)
        asked = model is query.chain.models[0]
        key = query.key if asked else query.key_of(model)
        self._storage.put(key, answer, query.scope, model.name, cache.max_entries)
        backend = self._semantic.of(query.snapshot)
        if backend is not None and query.semantic is not None and asked:
            semantic_query, backend_state = query.semantic
            self._later(backend.keep(semantic_query, backend_state, key, answer))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def completion_to_keep(events: Sequence[Event], *, stream: bool) -> Event | None:
    """The completion to store; `None` if it must not be stored. Raises `UNREADABLE` for an invalid answer."""
    if sum([len(event.text) if stream else len(event.body) for event in events]) > MAX_CACHED_BYTES:
        return None
    event = folding.as_whole(events) if stream else events[0]
    storable = keys.storable(completion_in(event)) and len(event.body) <= MAX_CACHED_BYTES
    if not storable:
        return None
    # As bytes only: without `completion`.
    return Event(event.body, event.content, event.text, event.usage, event.finish_reason, event.model)
