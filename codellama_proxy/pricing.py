"""Turns tokens into nano-USD, and refuses usage that cannot be true; never in favour of a lower charge."""

from __future__ import annotations

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
    if isinstance(prompt, bool) or isinstance(completion, bool):
        return None
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return None
    inputs = _details(reported, "prompt_tokens_details")
    outputs = _details(reported, "completion_tokens_details")
    return checked(
        Usage(
            prompt,
            completion,
            _or_zero(inputs.get("cached_tokens")),
            _or_zero(inputs.get("cache_write_tokens")),
            _or_zero(outputs.get("reasoning_tokens")),
        )
    )


def checked(usage: Usage) -> Usage | None:
    """The same for usage that a dialect has read."""
    if not _count(usage.prompt_tokens) or not _count(usage.completion_tokens):
        return None
    cached = _within(usage.cached_tokens, usage.prompt_tokens)
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        cached,
        _within(usage.cache_write_tokens, usage.prompt_tokens - cached),
        _within(usage.reasoning_tokens, usage.completion_tokens),
    )


def _details(reported: Json, name: str) -> Json:
    details = reported.get(name)
    return details if isinstance(details, dict) else {}


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def _or_zero(value: object) -> int:
    return value if isinstance(value, int) and _count(value) else 0


def _within(value: int, whole: int) -> int:
    return value if _count(value) and value <= whole else 0
