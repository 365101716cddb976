"""Tokens that a provider can bill beyond a request's own text and `max_tokens`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.request import InferenceRequest, answers_of

MAX_UNBOUNDED_REASONING_TOKENS = 65_536
"""Maximum reasoning tokens per answer if they do not count against `max_tokens`."""

REASONS_UNBOUNDED = re.compile(
    r"grok-(?:3-mini|[4-9]|code)(?!.*non-reasoning)|sonar-(?:deep-research|reasoning)", re.IGNORECASE
)
"""Models whose reasoning is billed in addition to the completion (docs.x.ai, docs.perplexity.ai)."""

ALWAYS_SEARCHES = re.compile(r":online$|-search-(?:preview|api)|(?:^|/)compound|(?:^|/)sonar", re.IGNORECASE)
"""Models that always search; the results are billed as prompt tokens."""


def unbounded_tokens(chat: InferenceRequest, deployment: Deployment) -> int:
    """Output tokens of all answers at this deployment that `max_tokens` does not bound.

    Rejected tokens of a `prediction` are billed as completion tokens
    (platform.openai.com/docs/guides/predicted-outputs); some models' reasoning is billed in addition.
    """
    if chat.endpoint == "embeddings":
        return 0
    prediction = chat.params.get("prediction", deployment.params.get("prediction"))
    each = unbounded_reasoning(deployment) + (0 if prediction is None else _text_bytes(prediction))
    return each * answers_of(chat.endpoint, {**deployment.params, **chat.params}) if each else 0


def unbounded_reasoning(deployment: Deployment) -> int:
    """Reasoning tokens of one answer that `max_tokens` does not bound."""
    if not _reasons_unbounded(deployment.base_model or deployment.model):
        return 0
    return min(MAX_UNBOUNDED_REASONING_TOKENS, deployment.context_window or MAX_UNBOUNDED_REASONING_TOKENS)


def searches_unasked(chat: InferenceRequest, deployment: Deployment) -> bool:
    """Whether the deployment searches the web even if the request does not ask for it."""
    if chat.endpoint == "embeddings" or chat.params.get("disable_search") is True:
        return False
    return always_searches(deployment)


def always_searches(deployment: Deployment) -> bool:
    """Whether the deployment searches the web unless the request forbids it."""
    return deployment.provider == "perplexity" or _always_searches(deployment.base_model or deployment.model)


@lru_cache(maxsize=4096)
def _reasons_unbounded(model: str) -> bool:
    return REASONS_UNBOUNDED.search(model) is not None


@lru_cache(maxsize=4096)
def _always_searches(model: str) -> bool:
    return ALWAYS_SEARCHES.search(model) is not None


def _text_bytes(prediction: Any) -> int:
    """An upper bound of the tokens in a `prediction`."""
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(prediction))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
