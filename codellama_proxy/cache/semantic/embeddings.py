"""The protocol of semantic backends, and the backend that uses an embedding model of this proxy.

A request is compared only with requests in its bucket, which are identical except for the last turn: scope, model,
guardrail, parameters and earlier turns. Every failure of a backend is a miss, after which the backend is not used for
a while.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from codellama_proxy.cache import file as answer_file
from codellama_proxy.cache import key as caching
from codellama_proxy.cache.key import CachedAnswer, CacheScope
from codellama_proxy.cache.storage import CacheStorage
from codellama_proxy.cache.vectors import Vector, vector
from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Model, Snapshot
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.project_rules import rules_of
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.selection import serving

LOOKUP_SECONDS = 1.0
"""How long a request waits for the result of a semantic lookup."""
Embed = Callable[[str, Model, RequestContext, Snapshot], Awaitable[bytes | None]]
"""Gets the embedding of a text from a model of this proxy, charged to the given request's key. Returns the body of an
`/embeddings` response; `None` if a limit refuses the request. Raises `ProxyError`."""
MAX_REMEMBERED_TEXTS = 256
"""Number of texts whose vectors are kept in memory."""
CALLER_STATUSES = frozenset({400, 413, 422})
"""Statuses of errors that are caused by the text."""
PAUSE_SECONDS = 30.0
"""How long a backend is not used after a failure."""


class SemanticQuery(NamedTuple):
    """What a semantic backend compares of a request."""

    bucket: bytes
    text: str
    """The text of the last turn."""
    sharing: CacheScope


class SemanticMatch(NamedTuple):
    """The result of a lookup; empty for a miss."""

    answer: CachedAnswer | None = None
    similarity: float | None = None
    """Similarity of the two texts, at most 1; `None` if the backend does not report it."""
    memo: Any = None
    """State of the backend that `keep` needs again."""


class SemanticBackend(Protocol):
    """A semantic backend. No method raises."""

    async def find(
        self, semantic_query: SemanticQuery, asker: RequestContext, snapshot: Snapshot
    ) -> SemanticMatch:
        """The best match, if any. `asker`: the request on whose behalf an embedding is requested and charged."""

    async def keep(self, semantic_query: SemanticQuery, memo: Any, key: bytes, answer: CachedAnswer) -> None:
        """Adds an answer that is stored under `key`. `memo`: from the `SemanticMatch` of its lookup."""

    async def close(self) -> None: ...


def semantic_query(
    request: InferenceRequest, model: Model, scope: CacheScope, snapshot: Snapshot
) -> SemanticQuery | None:
    """The semantic query of a request; `None` if only an identical request may match."""
    text = caching.last_turn(request)
    if text is None:
        return None
    project = snapshot.project(scope.project)
    blank = DeploymentRequests(caching.without_last_turn(request), rules_of(snapshot, project))
    rest = caching.key_of(scope.kind, scope.name, blank, model)
    return SemanticQuery(hashlib.sha256(b"similar:" + rest).digest(), text, scope)


class CircuitBreaker:
    """Disables a backend for `PAUSE_SECONDS` after a failure."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._paused_until = float("-inf")

    @property
    def open(self) -> bool:
        return self._monotonic() < self._paused_until

    def failed(self) -> None:
        self._paused_until = self._monotonic() + PAUSE_SECONDS


# --- embeddings ----------------------------------------------------------------------------------------------


class EmbeddingsBackend:
    """Compares embeddings of the last turns; the vectors are stored beside the answers."""

    def __init__(self, settings: Mapping[str, Any], answers: CacheStorage, embed: Embed, time: Time) -> None:
        self._model: str = settings["model"]
        self._threshold: float = settings["threshold"]
        self._answers = answers
        self._ask_embedding = embed
        self._time = time
        self._circuit = CircuitBreaker(time.monotonic)
        self._pending: dict[tuple[bytes, str], asyncio.Task[Vector | None]] = {}

    async def find(
        self, semantic_query: SemanticQuery, asker: RequestContext, snapshot: Snapshot
    ) -> SemanticMatch:
        named = snapshot.models.get(self._model)
        model = named and serving(named, "embedding")
        if model is None or not model.deployments or self._circuit.open:
            return SemanticMatch()
        semantic_query = _in_model_bucket(semantic_query, model)
        found = await self._vector(semantic_query, model, asker, snapshot)
        if found is None:
            return SemanticMatch()
        now = self._time.wall()
        best = await self._answers.read(lambda db: answer_file.nearest(db, semantic_query.bucket, found, now))
        memo = semantic_query.bucket, found
        if best is None or best[1] < self._threshold:
            return SemanticMatch(memo=memo)
        return SemanticMatch(
            await self._answers.find(best[0], semantic_query.sharing), min(best[1], 1.0), memo
        )

    async def keep(self, semantic_query: SemanticQuery, memo: Any, key: bytes, answer: CachedAnswer) -> None:
        del semantic_query, answer  # the answer is already stored; only its vector is added
        if memo is not None:
            bucket, found = memo
            self._answers.put_vector(key, bucket, found)

    async def close(self) -> None:
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    async def _vector(
        self, semantic_query: SemanticQuery, model: Model, asker: RequestContext, snapshot: Snapshot
    ) -> Vector | None:
        """The vector of a text; concurrent requests for the same text share one call, which the first pays for."""
        lookup = semantic_query.bucket, semantic_query.text
        task = self._pending.get(lookup)
        if task is None or (task.done() and task.result() is None):
            embedding = self._embed(semantic_query.text, model, asker, snapshot)
            task = self._pending[lookup] = asyncio.create_task(embedding)
            if len(self._pending) > MAX_REMEMBERED_TEXTS:
                del self._pending[next(iter(self._pending))]
        return await asyncio.shield(task)

    async def _embed(
        self, text: str, model: Model, asker: RequestContext, snapshot: Snapshot
    ) -> Vector | None:
        """The vector, or `None`. Opens the circuit unless the error was caused by the text."""
        try:
            answer = await self._ask_embedding(text, model, asker, snapshot)
            return None if answer is None else vector(numbers_of(answer))
        except (ProxyError, AttemptError, ValueError) as error:
            if not is_callers_fault(error):
                self._circuit.failed()
            self._answers.troubles["embedding"] += 1
            return None


def _in_model_bucket(semantic_query: SemanticQuery, model: Model) -> SemanticQuery:
    """The query in a bucket per embedding model: vectors of different models cannot be compared."""
    models = [[d.provider, d.model, d.params.get("dimensions")] for d in model.deployments]
    return semantic_query._replace(
        bucket=hashlib.sha256(semantic_query.bucket + orjson.dumps(models)).digest()
    )


def is_callers_fault(error: Exception) -> bool:
    """Whether the error was caused by the text."""
    if isinstance(error, AttemptError):
        return error.failure.cls == "caller"
    return isinstance(error, ProxyError) and error.status in CALLER_STATUSES


def numbers_of(body: bytes) -> Sequence[float]:
    """The vector in the body of an `/embeddings` response. Raises `ValueError`."""
    try:
        found = orjson.loads(body)["data"][0]["embedding"]
        if isinstance(found, str):
            return array("f", b64decode(found, validate=True))
        return [float(number) for number in found]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("not an embedding") from error
