"""How far a report of usage is believed: what is missing is counted, and what cannot be is capped. Pure.

Numbers are tokens in OpenAI's sense, as `openai_format.usage` reads them.
"""

from __future__ import annotations

from typing import NamedTuple

from codellama_proxy.core.types import Usage
from codellama_proxy.openai_format.usage import MOST_TOKENS, part_within

OWN_TOKENS = 1_000
"""What providers add to a prompt by themselves: templates, the prompts of their tools."""
FAR = 10
"""So many times its bound, a figure is no usage any more."""
PRICED_WINDOWS = 5
"""A model whose price changes at so many tokens has a context window of at most so many times that."""
UNBOUNDED_ANSWER = 200_000
"""Tokens of one answer that are possible where nothing bounded it."""


class Bounds(NamedTuple):
    """What a request could use at most, as far as the proxy knows. Tokens."""

    prompt: int = MOST_TOKENS
    completion: int = MOST_TOKENS
    """Of all its answers together."""
    bounded: bool = True
    """The upstream was told so; else it is only what the entry calls usual."""
    n: int = 1
    held: bool = False
    """A budget holds just that: what nobody reported is never booked at more."""


class ContextWindow(NamedTuple):
    """What is known of a model's context window. Tokens."""

    told: int | None = None
    """As the configuration has it."""
    priced: int = 0
    """The longest prompt that has a price of its own: the model takes more than that."""

    def most(self, bound: int) -> int:
        """Beyond which a figure cannot be."""
        return self.told or max(FAR * bound, PRICED_WINDOWS * self.priced)


class Believed(NamedTuple):
    """What is booked of a report."""

    usage: Usage
    counted: bool = False
    """Part of it is our own count."""
    capped: bool = False
    """Part of it could not be true."""


def believed(
    reported: Usage, counted: Usage, bounds: Bounds, window: ContextWindow, *, has_unreported_text: bool
) -> Believed:
    """A report on a whole answer, as it is booked.

    `counted`: our own count where it was needed, else zeros. `has_unreported_text`: text came after the report.
    """
    usage, added = reported, False
    if not usage.prompt_tokens and counted.prompt_tokens:
        usage, added = usage._replace(prompt_tokens=counted.prompt_tokens), True
    unsure = has_unreported_text or not usage.completion_tokens
    if unsure and counted.completion_tokens > usage.completion_tokens:
        usage, added = usage._replace(completion_tokens=counted.completion_tokens), True
    return _possible(usage, counted, bounds, window)._replace(counted=added)


def bounded_count(counted: Usage, bounds: Bounds, window: ContextWindow) -> Usage:
    """Our own count of an answer, as far as it can be.

    An upstream may send any amount of text: beyond what it was allowed to generate it is not paid for. Under a budget
    no more than what is held is booked.
    """
    most = bounds.completion if bounds.held else _most_completion(bounds, window)
    if counted.completion_tokens > most:
        counted = counted._replace(completion_tokens=min(most, bounds.completion))
    if bounds.held and counted.prompt_tokens > bounds.prompt:
        counted = counted._replace(prompt_tokens=bounds.prompt)
    return counted


def _most_completion(bounds: Bounds, window: ContextWindow) -> int:
    """Beyond which output cannot be."""
    if window.told:
        return window.told * bounds.n
    return max(FAR * bounds.completion, 0 if bounds.bounded else UNBOUNDED_ANSWER * bounds.n)


def _possible(usage: Usage, counted: Usage, bounds: Bounds, window: ContextWindow) -> Believed:
    own = bounds.prompt
    most_prompt = window.most(own)
    most_completion = _most_completion(bounds, window)
    capped = False
    if usage.prompt_tokens > most_prompt:
        prompt = max(min(own, most_prompt), counted.prompt_tokens)
        usage = usage._replace(
            prompt_tokens=prompt,
            cached_tokens=part_within(usage.cached_tokens, prompt),
            cache_write_tokens=part_within(
                usage.cache_write_tokens, prompt - part_within(usage.cached_tokens, prompt)
            ),
        )
        capped = True
    if usage.completion_tokens > most_completion:
        completion = max(min(bounds.completion, most_completion), counted.completion_tokens)
        usage = usage._replace(completion_tokens=completion, reasoning_tokens=0)
        capped = True
    return Believed(usage, capped=capped)
