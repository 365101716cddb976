"""The most tokens that a model can generate, for clients that ask every model for as many as the largest one gives.

Claude Code sends `max_tokens` 32000 or 128000 to every model; providers refuse a bound above the model's own.
"""

from __future__ import annotations

import re
from functools import lru_cache

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.openai_format.parameters import MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.tokens.tokenizers import estimate, of_chat, of_size

SPARE_TOKENS = 256
"""Of a context window, for what the estimate of a prompt leaves out."""
MIN_NARROWED_TOKENS = 1024
"""A window that seems full leaves this many: the estimate may be too high, and the provider refuses a full one."""

# The first pattern found in the name decides (platform.openai.com/docs/models, docs.anthropic.com models overview).
FAMILIES: tuple[tuple[str, int], ...] = (
    (r"gpt-3\.5|gpt-4-(?:turbo|\d{4}-preview)|gpt-4o-2024-05-13", 4096),
    (r"gpt-4o|chatgpt-4o", 16_384),
    (r"gpt-4\.1", 32_768),
    (r"gpt-4(?![\d.o])", 8192),
    (r"gpt-5(?:\.\d+)?-chat", 16_384),
    (r"gpt-[5-9]", 128_000),
    (r"o1-mini", 65_536),
    (r"o1-preview", 32_768),
    (r"o[1-9](?![\w.])", 100_000),
    (r"claude-3[-.]7", 64_000),
    (r"claude-3[-.]5", 8192),
    (r"claude-(?:instant|2|3)", 4096),
    (r"claude-opus-4(?:[-.][01])?(?![-.]?\d(?!\d))", 32_000),
    (r"claude-sonnet-4(?:[-.]0)?(?![-.]?\d(?!\d))|claude-\w+-4[-.]5", 64_000),
    (r"claude-\w+-(?:4[-.][6-8]|5)", 128_000),
)


def output_limit(deployment: Deployment) -> int | None:
    """The most tokens of one answer: what the entry says, else what is known of the model; `None`: unknown."""
    if deployment.output_limit is not None:
        return deployment.output_limit
    return known_output_limit(deployment)


def known_output_limit(deployment: Deployment) -> int | None:
    """What is known of the model, whatever the entry says."""
    return _limit_of(deployment.base_model or deployment.model)


@lru_cache(maxsize=1024)
def _limit_of(model: str) -> int | None:
    name = model.lower()
    for pattern, tokens in FAMILIES:
        if re.search(rf"(?:^|[./:@])(?:{pattern})", name):
            return tokens
    return None


def narrowed_max_tokens(chat: InferenceRequest, deployment: Deployment) -> int | None:
    """The bound on the answer that fits the model, if the client's is above it and only a ceiling; else `None`."""
    if not chat.soft or (wanted := chat.max_tokens) is None or chat.max_tokens_field not in chat.soft:
        return None
    limit = output_limit(deployment)
    most = wanted if limit is None else min(wanted, limit)
    if deployment.context_window is not None:
        most = min(most, _room(chat, deployment.context_window, most))
    return most if most < wanted else None


def narrowed(chat: InferenceRequest, deployment: Deployment) -> InferenceRequest:
    """The request with a bound that fits the model."""
    most = narrowed_max_tokens(chat, deployment)
    if most is None:
        return chat
    kept = {name: value for name, value in chat.params.items() if name not in MAX_TOKENS_FIELDS}
    return chat.with_content(chat.messages, {**kept, chat.max_tokens_field: most}, chat.native)


def _room(chat: InferenceRequest, window: int, wanted: int) -> int:
    """What the prompt leaves of the context window."""
    if of_size(chat.size) + wanted + SPARE_TOKENS <= window and chat.size <= window:
        return wanted
    prompt = of_chat(chat.messages, chat.params.get("tools", ()), estimate)
    return max(window - prompt - SPARE_TOKENS, MIN_NARROWED_TOKENS)
