"""A cache query: one request's key, scope, directives and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from codellama_proxy.cache import key as keys
from codellama_proxy.cache.key import CacheDirectives
from codellama_proxy.cache.semantic.embeddings import SemanticQuery
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Model, Snapshot
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.pricing.charge import Call
from codellama_proxy.request.context import RequestContext
from codellama_proxy.routing.chain import Chain

CallKey = tuple[bytes, tuple[str, ...]]


class CacheQuery:
    """The cache query of a chat request whose project uses the cache."""

    __slots__ = (
        "_monotonic",
        "call_key",
        "chain",
        "context",
        "directives",
        "key",
        "request",
        "scope",
        "semantic",
        "snapshot",
    )

    def __init__(
        self,
        context: RequestContext,
        request: InferenceRequest,
        chain: Chain,
        snapshot: Snapshot,
        directives: CacheDirectives,
        monotonic: Callable[[], float],
    ) -> None:
        self.context = context
        self.request = request
        self.chain = chain
        self.snapshot = snapshot
        self.directives = directives
        self.semantic: tuple[SemanticQuery, Any] | None = None
        """The semantic query, and the state that the backend computed for it."""
        self.scope = scope = keys.scope_of(snapshot, context.settings.name, context.key)
        requests = context.requests_for(request, snapshot)
        self.key = key = keys.key_of(scope.kind, scope.name, requests, chain.models[0])
        self.call_key: CallKey = (key, chain.names)
        """Identifies calls that may be shared: same key, and same permitted models."""
        self._monotonic = monotonic

    def key_of(self, model: Model) -> bytes:
        """The cache key of this model's answers to the request."""
        return keys.key_of(self.scope.kind, self.scope.name, self.requests, model)

    @property
    def requests(self) -> DeploymentRequests:
        return self.context.requests_for(self.request, self.snapshot)

    def seconds_left(self) -> float:
        """Seconds until the request's deadline; 0 if it has passed."""
        deadline = self.context.started + self.snapshot.routing.deadline
        return max(deadline - self._monotonic(), 0.0)

    def client_left(self) -> bool:
        """Whether the client disconnected and the request need not be completed: it is a stream."""
        return self.context.gone and self.request.stream

    async def in_time(self, wait: Awaitable[bool]) -> bool:
        """The result of `wait`. Raises `ProxyError` deadline_exceeded at the request's deadline."""
        try:
            async with asyncio.timeout(self.seconds_left()):
                return await wait
        except TimeoutError:
            raise ProxyError("deadline_exceeded", "No answer before the deadline.") from None

    def note_hit(self, deployment: Deployment, dropped: tuple[str, ...], kind: str) -> None:
        """Records in the context that the request has a free answer, and the request as `deployment` received it."""
        context = self.context
        context.cache = kind
        context.serving, context.dropped = deployment, dropped
        context.sent = self.requests.at(deployment).bounded(None)
        context.kept = Call(deployment, context.sent, context.started, whole=True)
