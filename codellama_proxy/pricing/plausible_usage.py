"""Checks reported usage: missing numbers are replaced by our count, and impossible ones are capped. Pure.

Numbers are tokens in OpenAI's sense, as parsed by `openai_format.usage`.
"""

from __future__ import annotations

from typing import NamedTuple

from codellama_proxy.core.types import Usage
from codellama_proxy.openai_format.usage import MAX_REPORTED_TOKENS, part_within

OWN_TOKENS = 1_000
"""Tokens that providers add to a prompt: templates, and the prompts of their tools."""
MAX_EXCESS_FACTOR = 10
"""A number more than this many times its bound is impossible."""
MAX_PRICED_WINDOWS = 5
"""Context windows are at most this many times the prompt length from which a long-prompt price applies."""
MAX_UNBOUNDED_ANSWER_TOKENS = 200_000
"""Maximum tokens of an answer without a bound."""


class Bounds(NamedTuple):
    """The maximum usage of a request, as far as it is known. Tokens."""

    prompt: int = MAX_REPORTED_TOKENS
    completion: int = MAX_REPORTED_TOKENS
    """The sum over all its answers."""
    bounded: bool = True
    """Whether `max_tokens` was sent upstream; otherwise `completion` is the entry's `max_output_tokens`."""
    n: int = 1
    held: bool = False
    """Whether a budget holds exactly these bounds; our own counts are then never booked above them."""


class ContextWindow(NamedTuple):
    """What is known of a model's context window. Tokens."""

    configured: int | None = None
    """The configured size."""
    priced: int = 0
    """The highest prompt length above which another price applies; the window is larger."""

    def most(self, bound: int) -> int:
        """The largest possible number of tokens, given the request's `bound`."""
        return self.configured or max(MAX_EXCESS_FACTOR * bound, MAX_PRICED_WINDOWS * self.priced)


class Believed(NamedTuple):
    """The usage to book."""

    usage: Usage
    counted: bool = False
    """Whether part of it is our own count."""
    capped: bool = False
    """Whether part of it was impossible and capped."""


def believed(
    reported: Usage, counted: Usage, bounds: Bounds, window: ContextWindow, *, has_unreported_text: bool
) -> Believed:
    """The usage to book for reported usage.

    `counted`: our own count where it was needed, else zeros. `has_unreported_text`: text came after the report.
    """
    usage, added = reported, False
    if not usage.prompt_tokens and counted.prompt_tokens:
        usage, added = usage._replace(prompt_tokens=counted.prompt_tokens), True
    unsure = has_unreported_text or not usage.completion_tokens
    if unsure and counted.completion_tokens > usage.completion_tokens:
        usage, added = usage._replace(completion_tokens=counted.completion_tokens), True
    return _possible(usage, counted, bounds, window)._replace(counted=added)


def is_within(usage: Usage, bounds: Bounds, configured_window: int | None) -> bool:
    """Whether `believed` surely leaves the usage of a complete answer as it is, without looking at prices."""
    if configured_window:
        return usage.prompt_tokens <= configured_window and (
            usage.completion_tokens <= configured_window * bounds.n
        )
    return usage.prompt_tokens <= MAX_EXCESS_FACTOR * bounds.prompt and (
        usage.completion_tokens <= MAX_EXCESS_FACTOR * bounds.completion
    )


def bounded_count(counted: Usage, bounds: Bounds, window: ContextWindow) -> Usage:
    """Our own count of an answer, as far as it can be.

    An upstream may send any amount of text; text beyond the possible maximum is not paid for. With a budget, at most
    the held amount is booked.
    """
    most = bounds.completion if bounds.held else _most_completion(bounds, window)
    if counted.completion_tokens > most:
        counted = counted._replace(completion_tokens=min(most, bounds.completion))
    if bounds.held and counted.prompt_tokens > bounds.prompt:
        counted = counted._replace(prompt_tokens=bounds.prompt)
    return counted


def _most_completion(bounds: Bounds, window: ContextWindow) -> int:
    """The largest possible number of completion tokens."""
    if window.configured:
        return window.configured * bounds.n
    return max(
        MAX_EXCESS_FACTOR * bounds.completion, 0 if bounds.bounded else MAX_UNBOUNDED_ANSWER_TOKENS * bounds.n
    )


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
