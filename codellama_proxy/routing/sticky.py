"""Keeps the requests of one conversation on one deployment of a name, so that the upstream's prompt cache is used.

Weighted rendezvous hashing: every deployment gets a score from its weight and the hash of the conversation with its
identity, and the highest score comes first. Shares follow the weights over many conversations, and a deployment that is
added or removed moves only its own conversations.
(Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from codellama_proxy.core.snapshot import Deployment, Model, Routing
from codellama_proxy.openai_format.request import SYSTEM_ROLES, InferenceRequest, Message

MAX_HASHED_CHARACTERS = 1 << 14
"""Of each text that identifies a conversation; what follows does not distinguish any."""
SEED_BYTES = 16


class Conversation(NamedTuple):
    """Identifies a conversation for routing."""

    seed: bytes
    source: str
    """What identifies it, for people."""


def conversation_of(
    request: InferenceRequest,
    models: Iterable[Model],
    routing: Routing,
    session: str | None,
    key_id: str | None,
) -> Conversation | None:
    """The conversation that orders the deployments of these models; `None` for a weighted random order.

    That is where routing is not sticky, no name has more than one deployment, or nothing identifies a conversation.
    `session` is the client's session id, `key_id` its key.
    """
    if not routing.sticky or not [model for model in models if len(model.deployments) > 1]:
        return None
    cache_key = request.params.get("prompt_cache_key")
    if isinstance(cache_key, str) and cache_key:
        return Conversation(_hash("prompt_cache_key", cache_key[:MAX_HASHED_CHARACTERS]), "prompt_cache_key")
    if session:
        return Conversation(_hash("session", session), "the client's session id")
    if not request.messages:
        return None
    system, first = _beginning(request.messages)
    return Conversation(
        _hash("beginning", key_id or "", system, first),
        "the key, the system prompt and the first user message",
    )


def ranked(deployments: Sequence[Deployment], conversation: Conversation) -> list[Deployment]:
    """The deployments of a name in the conversation's order; those of weight 0 come last."""
    if len(deployments) == 1:
        return list(deployments)
    scored = [(_score(one, conversation.seed), one) for one in deployments]
    return [one for _, one in sorted(scored, key=lambda pair: pair[0], reverse=True)]


def identity_of(deployment: Deployment) -> str:
    """A digest of the settings that make it another upstream for a prompt cache; not to be shown."""
    key = deployment.api_key.reveal() if deployment.api_key else ""
    settings = (deployment.provider, deployment.base_url or "", deployment.model, key)
    return _hash(*settings, repr(sorted(deployment.extra.items()))).hex()


def _score(deployment: Deployment, seed: bytes) -> tuple[float, float]:
    """-weight / ln(h) for a uniform h in (0, 1), and h for those that are equal, such as without a weight."""
    digest = blake2b((deployment.identity or deployment.id).encode(), digest_size=8, key=seed).digest()
    # 52 bits and a half: neither 0 nor 1 after rounding.
    uniform = ((int.from_bytes(digest) >> 12) + 0.5) / (1 << 52)
    return -deployment.weight / math.log(uniform), uniform


def _beginning(messages: Sequence[Message]) -> tuple[str, str]:
    """The system prompt before the first user message, and that message, as text of bounded length."""
    system: list[str] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "user":
            return "\n".join(system), _text(content)
        if isinstance(role, str) and role in SYSTEM_ROLES:
            system.append(_text(content))
    return "\n".join(system), ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content[:MAX_HASHED_CHARACTERS]
    parts = content if isinstance(content, list | tuple) else ()
    texts = [
        str(part["text"]) for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "\n".join(texts)[:MAX_HASHED_CHARACTERS]


def _hash(*parts: str) -> bytes:
    """A digest of the parts, each with its length, so that no two lists of parts are alike."""
    digest = blake2b(digest_size=SEED_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.digest()
