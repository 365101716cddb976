"""Counts the prompt tokens of a request without sending it: /v1/messages/count_tokens, /v1/responses/input_tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from codellama_proxy.core.offload import off_loop
from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.gateway.attempts import AttemptRunner
from codellama_proxy.inbound.dialect import Dialect, Headers
from codellama_proxy.policy.deployment_request import DeploymentRequest
from codellama_proxy.policy.guardrail import check_client_system
from codellama_proxy.policy.permissions import permission
from codellama_proxy.request.context import ANONYMOUS
from codellama_proxy.tokens.counter import Counter
from codellama_proxy.tokens.tokenizers import is_openai

MAX_PARALLEL_COUNTS = 4
"""Clients ask for dozens at once; the others wait, so that counting does not hold up requests."""
ALLOWANCE = 1.2
"""For models whose vocabulary is not known: an estimate that is too low makes clients shorten too late."""


class InputTokens:
    """Neither admitted nor recorded: counting costs nothing and takes no rate."""

    def __init__(self, snapshot: Callable[[], Snapshot], attempts: AttemptRunner, counter: Counter) -> None:
        self._snapshot = snapshot
        self._attempts = attempts
        self._counter = counter
        self._slots = asyncio.Semaphore(MAX_PARALLEL_COUNTS)

    async def count(self, dialect: Dialect, body: bytes, headers: Headers, key: Key | None) -> int:
        """Tokens of the prompt, guardrail included, at the first deployment of the request's chain.

        Raises `ProxyError` with status 400, or 404 for a model that the key may not use.
        """
        snapshot = self._snapshot()
        request = await off_loop(len(body), dialect.parse, body, headers, "", 0)
        check_client_system(request.messages, snapshot.guardrail.client_system)
        project = snapshot.project(key.project if key else ANONYMOUS)
        permitted = permission(project, key, dialect.endpoint)
        deployment = self._attempts.chain(request, permitted, snapshot)[0].deployments[0]
        sent = DeploymentRequest(request, deployment, snapshot.guardrail, project).bounded(None)
        async with self._slots:
            counted = await self._counter.prompt(sent, deployment)
        known = is_openai(deployment.base_model or deployment.model)
        return counted if known else math.ceil(counted * ALLOWANCE)
