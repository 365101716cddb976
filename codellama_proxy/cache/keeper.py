"""Stores complete answers in the cache, under the model that generated them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from codellama_proxy.cache.key import COMPLETE, CachedAnswer
from codellama_proxy.cache.query import CacheQuery
from codellama_proxy.cache.reply import Reply
from codellama_proxy.cache.semantic.selector import SemanticSelector
from codellama_proxy.cache.shared_answer import SharedAnswer
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.cache.unfolded import UNREADABLE, UnfoldedAnswer, completion_to_keep
from codellama_proxy.core.clock import Time
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES

FINISHED = COMPLETE | {None}
"""The finish reasons of chunks of answers that may be stored."""
Terms = Callable[[str, tuple[str, ...], float, float], CachedAnswer | UnfoldedAnswer]
"""An answer to store, by its deployment, dropped parameters, time and expiry."""


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
        elif not answer.stream or query.semantic is not None:
            self._put_event(query, reply, self._completion(events, stream=answer.stream))
        elif FINISHED.issuperset([event.finish_reason for event in events]):
            self._put(query, reply, partial(UnfoldedAnswer, events, answer.size))

    async def _keep_long(
        self, query: CacheQuery, reply: Reply, events: Sequence[Event], *, stream: bool
    ) -> None:
        event = await asyncio.to_thread(self._completion, events, stream=stream)
        self._put_event(query, reply, event)

    def _completion(self, events: Sequence[Event], *, stream: bool) -> Event | None:
        try:
            return completion_to_keep(events, stream=stream)
        except UNREADABLE:
            self._storage.troubles["unreadable"] += 1
            return None

    def _put_event(self, query: CacheQuery, reply: Reply, event: Event | None) -> None:
        if event is not None:
            self._put(query, reply, partial(CachedAnswer, event))

    def _put(self, query: CacheQuery, reply: Reply, under: Terms) -> None:
        cache, now = query.snapshot.cache, self._time.wall()
        expires = query.directives.expiry(cache.ttl, now)
        model = query.chain.named(reply.deployment.name)
        if model is None or expires <= now:
            return
        answer = under(reply.deployment.id, reply.dropped, now, expires)
        asked = model is query.chain.models[0]
        key = query.key if asked else query.key_of(model)
        self._storage.put(key, answer, query.scope, model.name, cache.max_entries)
        if query.semantic is None or not asked or not isinstance(answer, CachedAnswer):
            return
        backend = self._semantic.of(query.snapshot)
        if backend is not None:
            semantic_query, backend_state = query.semantic
            self._later(backend.keep(semantic_query, backend_state, key, answer))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
