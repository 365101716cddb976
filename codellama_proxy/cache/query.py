"""One request as the cache sees it: its key, its scope, its directives and its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from codellama_proxy.cache import key as keys
from codellama_proxy.cache.key import CacheDirectives, CacheScope
from codellama_proxy.cache.semantic.embeddings import SemanticQuery
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.pricing.charge import Call
from codellama_proxy.request.context import RequestContext

CallKey = tuple[bytes, tuple[str, ...]]


class CacheQuery:
    """A request for a chat, of a project that uses the cache."""

    __slots__ = (
        "_monotonic",
        "context",
        "directives",
        "key",
        "models",
        "request",
        "scope",
        "semantic",
        "snapshot",
    )

    def __init__(
        self,
        context: RequestContext,
        request: InferenceRequest,
        models: Sequence[Model],
        snapshot: Snapshot,
        directives: CacheDirectives,
        monotonic: Callable[[], float],
    ) -> None:
        self.context = context
        self.request = request
        self.models = models
        self.snapshot = snapshot
        self.directives = directives
        self.semantic: tuple[SemanticQuery, Any] | None = None
        """What similar requests are compared by, and what the back end found out for it already."""
        self.scope: CacheScope = keys.scope_of(snapshot, context.project, context.key)
        self.key = self.key_of(models[0])
        self._monotonic = monotonic

    @property
    def call_key(self) -> CallKey:
        """Requests that share a call may use the same models."""
        return self.key, tuple([model.name for model in self.models])

    def key_of(self, model: Model) -> bytes:
        """The key of this model's answers to it."""
        return keys.key_of(self.scope.kind, self.scope.name, self.requests, model)

    @property
    def requests(self) -> DeploymentRequests:
        return self.context.requests_for(self.request, self.snapshot.guardrail)

    def seconds_left(self) -> float:
        """Until its deadline."""
        deadline = self.context.started + self.snapshot.routing.deadline
        return max(deadline - self._monotonic(), 0.0)

    def client_left(self) -> bool:
        """Its client has left, and it is not to be finished all the same."""
        return self.context.gone and self.request.stream

    async def in_time(self, wait: Awaitable[bool]) -> bool:
        """The result of `wait`. Raises `ProxyError` when it takes longer than the request's deadline."""
        try:
            async with asyncio.timeout(self.seconds_left()):
                return await wait
        except TimeoutError:
            raise ProxyError("deadline_exceeded", "No answer before the deadline.") from None

    def note_hit(self, deployment: Deployment, dropped: tuple[str, ...], kind: str) -> None:
        """Notes an answer that costs nothing, and the request as `deployment` got it: with its guardrail."""
        context = self.context
        context.cache = kind
        context.serving, context.dropped = deployment, dropped
        context.sent = self.requests.at(deployment).bounded(None)
        context.kept = Call(deployment, context.sent, context.started, whole=True)
