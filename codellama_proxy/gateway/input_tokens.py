"""Counts the prompt tokens of a request: /v1/messages/count_tokens, /v1/responses/input_tokens.

Anthropic counts those of its own models, for nothing; others are counted here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from codellama_proxy.core.clock import Time
from codellama_proxy.core.offload import off_loop
from codellama_proxy.core.snapshot import Deployment, Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.gateway.prepared import LatestPrepared
from codellama_proxy.inbound.dialect import Dialect, Headers
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.policy.deployment_request import DeploymentRequests
from codellama_proxy.policy.guardrail import check_client_system
from codellama_proxy.policy.permissions import permission
from codellama_proxy.providers.registry import token_count_of
from codellama_proxy.request.context import ANONYMOUS
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.tokens.tokenizers import is_openai
from codellama_proxy.upstream import token_count
from codellama_proxy.upstream.pools import Pools

MAX_PARALLEL_COUNTS = 4
"""Clients ask for dozens at once; the others wait, so that counting does not hold up requests."""
ALLOWANCE = 1.2
"""For models whose vocabulary is not known: an estimate that is too low makes clients shorten too late."""
MAX_PARALLEL_QUESTIONS = 16
"""To all upstreams."""
ANSWER_SECONDS = 5.0
"""For an upstream's count; after that the estimate is used."""
PAUSE_SECONDS = 30.0
"""After an upstream failed to count, its tokens are estimated."""


class InputTokens:
    """Neither admitted nor recorded: counting costs nothing and takes no rate."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        attempts: AttemptRunner,
        counter: Counter,
        pools: Pools,
        time: Time,
    ) -> None:
        self._prepared = LatestPrepared(snapshot)
        self._attempts = attempts
        self._counter = counter
        self._pools = pools
        self._time = time
        self._slots = asyncio.Semaphore(MAX_PARALLEL_COUNTS)
        self._questions = asyncio.Semaphore(MAX_PARALLEL_QUESTIONS)
        self._paused: dict[str, float] = {}
        """Deployment id -> until when it is not asked, in monotonic seconds."""

    async def count(self, dialect: Dialect, body: bytes, headers: Headers, key: Key | None) -> int:
        """Tokens of the prompt, guardrail included, at the first deployment of the request's chain.

        Raises `ProxyError` with status 400, or 404 for a model that the key may not use.
        """
        prepared = self._prepared()
        snapshot = prepared.snapshot
        request = await off_loop(len(body), dialect.parse, body, headers, "", 0)
        check_client_system(request.messages, snapshot.guardrail.client_system)
        rules = prepared.rules(key.project if key else ANONYMOUS)
        permitted = permission(rules.settings, key, dialect.endpoint)
        deployment = self._attempts.chain(request, permitted, prepared).deployments[0]
        at = DeploymentRequests(request, rules).at(deployment)
        sent, _ = await off_loop(len(body), lambda: at.to_send(None, budgeted=False))
        reported = await self._reported(sent, deployment)
        if reported is not None:
            return reported
        async with self._slots:
            counted = await self._counter.prompt(sent, deployment)
        known = is_openai(deployment.base_model or deployment.model)
        return counted if known else math.ceil(counted * ALLOWANCE)

    async def _reported(self, sent: InferenceRequest, deployment: Deployment) -> int | None:
        """The upstream's own count; `None` if it has none."""
        provider = token_count_of(sent, deployment)
        if provider is None or self._time.monotonic() < self._paused.get(deployment.id, 0.0):
            return None
        question = await off_loop(sent.size, provider.to_request, sent, deployment)
        async with self._questions:
            body = await token_count.ask(self._pools, question, deployment, ANSWER_SECONDS)
        found = None if body is None else provider.parse_response(body)
        if found is None:
            self._paused[deployment.id] = self._time.monotonic() + PAUSE_SECONDS
        return found
