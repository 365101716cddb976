"""Creates the backend that `cache.semantic` configures, and replaces it when the configuration changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from codellama_proxy.cache.semantic.embeddings import Embed, EmbeddingsBackend, SemanticBackend
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.core.clock import Time
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.upstream.http import Transport

MakeTransport = Callable[[], Transport]


class SemanticSelector:
    """Holds the semantic backend and its connections."""

    def __init__(self, answers: CacheStorage, embed: Embed, time: Time, make: MakeTransport) -> None:
        self._answers = answers
        self._embed = embed
        self._time = time
        self._make = make
        self._transport: Transport | None = None
        self._settings: tuple[Any, float] = (None, 0.0)
        self._backend: SemanticBackend | None = None
        self._former: list[SemanticBackend] = []

    def of(self, snapshot: Snapshot) -> SemanticBackend | None:
        """The configured backend; `None` if there is none."""
        settings = snapshot.cache.semantic, snapshot.cache.ttl
        if settings != self._settings:
            if self._backend is not None:
                self._former = [self._backend]  # requests that still use it finish
            self._settings, self._backend = settings, self._create(snapshot)
        return self._backend

    def _create(self, snapshot: Snapshot) -> SemanticBackend | None:
        settings = snapshot.cache.semantic
        if settings is None:
            return None
        if settings["backend"] == "embeddings":
            return EmbeddingsBackend(settings, self._answers, self._embed, self._time)
        from codellama_proxy.cache.semantic.gptcache import GptCache  # noqa: PLC0415 - only if configured

        if self._transport is None:
            self._transport = self._make()
        return GptCache(settings, snapshot.cache.ttl, self._transport, self._answers.troubles, self._time)

    async def close(self) -> None:
        backends = [*self._former, *([self._backend] if self._backend else [])]
        await asyncio.gather(*(one.close() for one in backends))
        if self._transport is not None:
            await self._transport.aclose()
