"""Answers to requests that mean the same: two back ends behind one small protocol.

Requests are compared only with those of their bucket, which share everything but the last turn: who shares,
model, guardrail, parameters and earlier turns. Whatever goes wrong in a back end is a miss, and it is then left
alone for a while. This module has the back end that asks an embedding model of this proxy.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.selection import serving

PATIENCE = 1.0
"""Seconds a request waits to hear whether there is a similar one."""
Embed = Callable[[str, Model, RequestContext, Snapshot], Awaitable[bytes | None]]
"""Asks a model of this proxy for the vector of a text, for the sake of another request, and on its bill. Returns the
answer of /embeddings; `None` if the ledger does not admit it. Raises `ProxyError`."""
REMEMBERED = 256
"""Texts whose vectors are at hand."""
CALLER_STATUSES = frozenset({400, 413, 422})
"""Of errors that refuse a request for what it says."""
REST = 30.0
"""Seconds a back end is left alone after it failed."""


@dataclass(frozen=True, slots=True)
class SemanticQuery:
    """A request as similar ones see it."""

    bucket: bytes
    text: str
    """Its last turn."""
    sharing: CacheScope


class SemanticMatch(NamedTuple):
    """What a back end found."""

    answer: CachedAnswer | None = None
    similarity: float | None = None
    """Of the two texts, 1 for the same; `None` if the back end does not tell."""
    memo: Any = None
    """What it need not find out again to `keep` an answer to this question."""


class SemanticBackend(Protocol):
    """A back end. Neither function raises."""

    async def find(
        self, semantic_query: SemanticQuery, asker: RequestContext, snapshot: Snapshot
    ) -> SemanticMatch:
        """`asker`: the request whose question it is, which pays for what has to be asked to compare it."""

    async def keep(self, semantic_query: SemanticQuery, memo: Any, key: bytes, answer: CachedAnswer) -> None:
        """Keeps an answer that is already kept under its `key`."""

    async def close(self) -> None: ...


def semantic_query(
    request: InferenceRequest, model: Model, scope: CacheScope, snapshot: Snapshot
) -> SemanticQuery | None:
    """`None` for a request that only an identical one can answer."""
    text = caching.last_turn(request)
    if text is None:
        return None
    project = snapshot.project(scope.project)
    blank = DeploymentRequests(caching.without_last_turn(request), snapshot.guardrail, project)
    rest = caching.key_of(scope.kind, scope.name, blank, model)
    return SemanticQuery(hashlib.sha256(b"similar:" + rest).digest(), text, scope)


class CircuitBreaker:
    """Whether a back end may be asked: not for a while after it failed."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._rests_until = float("-inf")

    @property
    def open(self) -> bool:
        return self._monotonic() < self._rests_until

    def failed(self) -> None:
        self._rests_until = self._monotonic() + REST


# --- embeddings ----------------------------------------------------------------------------------------------


class EmbeddingsBackend:
    """Compares by the vectors that a model makes of the last turns; they are kept beside the answers."""

    def __init__(self, settings: Mapping[str, Any], answers: CacheStorage, embed: Embed, time: Time) -> None:
        self._model: str = settings["model"]
        self._threshold: float = settings["threshold"]
        self._answers = answers
        self._ask_embedding = embed
        self._time = time
        self._circuit = CircuitBreaker(time.monotonic)
        self._asking: dict[tuple[bytes, str], asyncio.Task[Vector | None]] = {}

    async def find(
        self, semantic_query: SemanticQuery, asker: RequestContext, snapshot: Snapshot
    ) -> SemanticMatch:
        named = snapshot.models.get(self._model)
        model = named and serving(named, "embedding")
        if model is None or not model.deployments or self._circuit.open:
            return SemanticMatch()
        semantic_query = _among(semantic_query, model)
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
        del (
            semantic_query,
            answer,
        )  # the answer is where identical requests find it; only the way there is new
        if memo is not None:
            bucket, found = memo
            self._answers.write(lambda db: answer_file.put_vector(db, key, bucket, found))

    async def close(self) -> None:
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _vector(
        self, semantic_query: SemanticQuery, model: Model, asker: RequestContext, snapshot: Snapshot
    ) -> Vector | None:
        """One call for all who ask the same at about the same time; the first of them pays."""
        asked = semantic_query.bucket, semantic_query.text
        task = self._asking.get(asked)
        if task is None or (task.done() and task.result() is None):
            embedding = self._embed(semantic_query.text, model, asker, snapshot)
            task = self._asking[asked] = asyncio.create_task(embedding)
            if len(self._asking) > REMEMBERED:
                del self._asking[next(iter(self._asking))]
        return await asyncio.shield(task)

    async def _embed(
        self, text: str, model: Model, asker: RequestContext, snapshot: Snapshot
    ) -> Vector | None:
        """`None` if there is none. Only a fault of the model opens the circuit: the text belongs to one caller."""
        try:
            answer = await self._ask_embedding(text, model, asker, snapshot)
            return None if answer is None else vector(numbers_of(answer))
        except (ProxyError, AttemptError, ValueError) as error:
            if not is_callers_fault(error):
                self._circuit.failed()
            self._answers.troubles["embedding"] += 1
            return None


def _among(semantic_query: SemanticQuery, model: Model) -> SemanticQuery:
    """Vectors of different models cannot be compared, so they are in different buckets."""
    makers = [[d.provider, d.model, d.params.get("dimensions")] for d in model.deployments]
    return replace(
        semantic_query, bucket=hashlib.sha256(semantic_query.bucket + orjson.dumps(makers)).digest()
    )


def is_callers_fault(error: Exception) -> bool:
    """Whether the model refused a text for what it is."""
    if isinstance(error, AttemptError):
        return error.failure.cls == "caller"
    return isinstance(error, ProxyError) and error.status in CALLER_STATUSES


def numbers_of(body: bytes) -> Sequence[float]:
    """The vector in an answer of /embeddings. Raises `ValueError`."""
    try:
        found = orjson.loads(body)["data"][0]["embedding"]
        if isinstance(found, str):
            return array("f", b64decode(found, validate=True))
        return [float(number) for number in found]
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("not an embedding") from error
