"""Turns tokens into nano-USD, and refuses usage that cannot be true; never in favour of a lower charge."""

from __future__ import annotations

from typing import TypeGuard

from codellama_proxy.types import Json, Price, Usage

PER = 1_000_000
"""Prices are for so many tokens."""
MOST_TOKENS = 1_000_000_000
"""No request of today uses more: a larger number is a mistake."""


def cost(usage: Usage, price: Price) -> int:
    """Nano-USD, rounded up once. Parts that contradict the whole count as plain tokens."""
    prompt = max(usage.prompt_tokens, 0)
    cached = usage.cached_tokens if 0 <= usage.cached_tokens <= prompt else 0
    written = min(max(usage.cache_write_tokens, 0), prompt - cached)
    units = (
        (prompt - cached - written) * price.input
        + cached * (price.input if price.cached_input is None else price.cached_input)
        + written * (price.input if price.cache_write is None else price.cache_write)
        + max(usage.completion_tokens, 0) * price.output
    )
    return -(-units // PER)


def input_cost(tokens: int, price: Price) -> int:
    """What plain input costs."""
    return -(-max(tokens, 0) * price.input // PER)


def sane(reported: object) -> Usage | None:
    """An upstream's `usage` object in OpenAI's shape; `None` if it says nothing or nothing that can be true.

    An explicit 0 stays 0. Details that contradict the totals are dropped: they could only lower the charge.
    """
    if not isinstance(reported, dict):
        return None
    prompt, completion = reported.get("prompt_tokens"), reported.get("completion_tokens", 0)
    if not _count(prompt) or not _count(completion):
        return None
    inputs = _details(reported, "prompt_tokens_details")
    outputs = _details(reported, "completion_tokens_details")
    return checked(
        Usage(
            prompt,
            completion,
            inputs.get("cached_tokens", 0),
            inputs.get("cache_write_tokens", 0),
            outputs.get("reasoning_tokens", 0),
        )
    )


def checked(usage: Usage) -> Usage | None:
    """The same for usage that a dialect has read; what is no number counts as 0."""
    if not _count(usage.prompt_tokens) or not _count(usage.completion_tokens):
        return None
    prompt, completion, cached, written, reasoning = usage
    cached = _within(cached, prompt)
    written, reasoning = _within(written, prompt - cached), _within(reasoning, completion)
    return Usage(prompt, completion, cached, written, reasoning)


def _details(reported: Json, name: str) -> Json:
    details = reported.get(name)
    return details if isinstance(details, dict) else {}


def _count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MOST_TOKENS  # a bool is no number in JSON


def _within(value: object, whole: int) -> int:
    return value if _count(value) and value <= whole else 0
