"""Sends one small request to every enabled deployment: does it answer, and how fast?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Deployment, Project, Snapshot
from codellama_proxy.core.types import Failure
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.inbound.openai import PARSERS
from codellama_proxy.openai_format.request import Endpoint, InferenceRequest
from codellama_proxy.policy.guardrail import guardrail_text, request_for
from codellama_proxy.providers.registry import adapter_of
from codellama_proxy.upstream.attempt import open_reply
from codellama_proxy.upstream.pools import Pools

REQUESTS: Mapping[str, tuple[Endpoint, bytes]] = {
    "chat": ("chat/completions", b'{"prompt": "Say OK.", "max_tokens": 16}'),
    "completion": ("completions", b'{"prompt": "Say OK.", "max_tokens": 16}'),
    "embedding": ("embeddings", b'{"input": "OK"}'),
}
"""By the mode of a deployment."""
TIMEOUT_SECONDS = 60.0
"""For one answer, whatever its own timeouts are."""
MAX_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result for one deployment."""

    deployment: Deployment
    works: bool
    ms: float
    message: str = ""
    """Why it does not work; empty if it does."""


async def probe(snapshot: Snapshot, pools: Pools, time: Time) -> Sequence[ProbeResult]:
    """The results of every enabled deployment, in file order."""
    turns = asyncio.Semaphore(MAX_PARALLEL)
    deployments = [d for model in snapshot.models.values() for d in model.deployments]

    async def one(deployment: Deployment) -> ProbeResult:
        async with turns:
            return await probe_one(deployment, snapshot, pools, time)

    return await asyncio.gather(*(one(deployment) for deployment in deployments))


async def probe_one(deployment: Deployment, snapshot: Snapshot, pools: Pools, time: Time) -> ProbeResult:
    """The result of one enabled deployment. Cooldowns are neither regarded nor changed, and nothing is booked."""
    started = time.monotonic()
    try:
        await _answered(deployment, snapshot, pools)
    except AttemptError as failed:
        return ProbeResult(deployment, False, _since(started, time), failure_text(failed.failure))
    except ProxyError as error:
        return ProbeResult(deployment, False, _since(started, time), error.message)
    return ProbeResult(deployment, True, _since(started, time))


async def _answered(deployment: Deployment, snapshot: Snapshot, pools: Pools) -> None:
    chat = _chat(deployment, snapshot)
    sent = adapter_of(chat, deployment).to_request(chat, deployment)
    reply = await open_reply(pools, sent, chat, deployment, TIMEOUT_SECONDS)
    await reply.close()


def _chat(deployment: Deployment, snapshot: Snapshot) -> InferenceRequest:
    """A request that every provider supports."""
    text = guardrail_text(snapshot.guardrail, Project(""), deployment)
    endpoint, body = REQUESTS[deployment.mode]
    chat = PARSERS[endpoint](body, "req_check", 0)._replace(model=deployment.name)
    return request_for(chat, deployment, text, snapshot.guardrail.client_system, None)


def failure_text(failure: Failure) -> str:
    """`401 credential: The upstream did not accept ...`."""
    status = "" if failure.status is None else f"{failure.status} "
    why = "" if failure.status is not None else f" ({failure.reason})" if failure.reason else ""
    return f"{status}{failure.cls}: {failure.message}{why}"


def _since(started: float, time: Time) -> float:
    return (time.monotonic() - started) * 1000
