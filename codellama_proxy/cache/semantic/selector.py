"""The back end that `cache.semantic` names, made anew when the configuration names another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2

from codellama_proxy.cache.semantic.embeddings import Embed, EmbeddingsBackend, SemanticBackend
from codellama_proxy.cache.semantic.gptcache import GptCache
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot

MakeWire = Callable[[], httpx2.AsyncBaseTransport]


class SemanticSelector:
    """Holds the back end and its connections."""

    def __init__(self, answers: CacheStorage, embed: Embed, time: Time, make: MakeWire) -> None:
        self._answers = answers
        self._embed = embed
        self._time = time
        self._make = make
        self._wire: httpx2.AsyncBaseTransport | None = None
        self._settings: tuple[Any, float] = (None, 0.0)
        self._similar: SemanticBackend | None = None
        self._former: list[SemanticBackend] = []

    def of(self, snapshot: Snapshot) -> SemanticBackend | None:
        settings = snapshot.cache.semantic, snapshot.cache.ttl
        if settings != self._settings:
            if self._similar is not None:
                self._former = [self._similar]  # one that is still in use ends by itself
            self._settings, self._similar = settings, self._made(snapshot)
        return self._similar

    def _made(self, snapshot: Snapshot) -> SemanticBackend | None:
        settings = snapshot.cache.semantic
        if settings is None:
            return None
        if settings["backend"] == "embeddings":
            return EmbeddingsBackend(settings, self._answers, self._embed, self._time)
        if self._wire is None:
            self._wire = self._make()
        return GptCache(settings, snapshot.cache.ttl, self._wire, self._answers.troubles, self._time)

    async def close(self) -> None:
        similar = [*self._former, *([self._similar] if self._similar else [])]
        await asyncio.gather(*(one.close() for one in similar))
        if self._wire is not None:
            await self._wire.aclose()
