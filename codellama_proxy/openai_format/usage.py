"""Reads the usage that upstreams report, in every spelling.

Numbers are tokens in OpenAI's sense: the prompt includes what was read from and written to a cache, the completion
includes reasoning. A class that an upstream does not report, or reports as nonsense, is 0 here: where there was
such content, it is counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from codellama_proxy.core.types import Usage

DIGITS = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
"""A count that is written as a string."""
MAX_REPORTED_TOKENS = 1_000_000_000
"""Larger figures are read as this one, which no request can use."""

PROMPT = (
    *("prompt_tokens", "input_tokens", "input_token_count", "prompt_eval_count", "inputTokens"),
    *("promptTokenCount", "prompt_token_count"),
)
COMPLETION = (
    *("completion_tokens", "output_tokens", "output_token_count", "eval_count", "outputTokens"),
    *("candidatesTokenCount", "candidates_token_count"),
)
TOTAL = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count")
USAGE_FIELDS = ("usage", "usageMetadata", "usage_metadata")
"""Where an answer has its usage."""
TOOL_PROMPT = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")
"""Gemini's names: prompt tokens that `promptTokenCount` does not include."""
THOUGHTS = ("thoughtsTokenCount", "thoughts_token_count")
"""Gemini's names: output tokens that `candidatesTokenCount` does not include."""
PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details")
SEPARATE_CACHE_FIELDS = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic's names: tokens that `input_tokens` does not include."""
CACHED = (
    *("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cacheReadInputTokens"),
    *("cachedContentTokenCount", "cached_content_token_count"),
)
WRITTEN = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cache_creation_input_tokens",
    "cacheWriteInputTokens",
)
WRITTEN_1H = ("cache_write_1h_tokens", "ephemeral_1h_input_tokens")
REASONING = ("reasoning_tokens", "thinking_tokens", *THOUGHTS)
TOOL_CALLS: Mapping[str, str] = {
    "web_search_requests": "web_search",
    "web_fetch_requests": "web_fetch",
    "code_execution_requests": "code_execution",
    "num_search_queries": "web_search",
    "num_sources_used": "web_search",
}
"""Calls of the provider's own tools -> our names of them."""


def usage_in(found: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer, a chunk or an error event, wherever it is; `None` if there is none."""
    usage = read_usage(reported_in(found))
    tier = found.get("service_tier")
    if usage is not None and not usage.service_tier and isinstance(tier, str):
        return usage._replace(service_tier=tier[:32])
    return usage


def reported_in(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `usage` object as reported by the upstream."""
    for name in USAGE_FIELDS:
        if isinstance(own := found.get(name), dict) and own:
            return own
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for place in (first, *[found.get(name) for name in ("x_groq", "error", "message", "response")]):
        if isinstance(place, dict) and isinstance(usage := place.get("usage"), dict) and usage:
            return usage
    return None


def read_usage(reported: object) -> Usage | None:
    """A `usage` object in any of the known spellings; `None` if it tells nothing.

    Details that contradict the whole are dropped: they could only lower the charge. Reasoning and other output
    that stands beside the completion, as `total_tokens` shows, is added to it.
    """
    if not isinstance(reported, dict | Mapping):  # nearly all are a dict, which is found faster
        return None
    return usual_usage(reported) or _any_spelling(reported)


_USUAL = {
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
}
_USUAL_PROMPT = {"cached_tokens", "audio_tokens"}
_USUAL_COMPLETION = {
    "reasoning_tokens",
    "audio_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
}
_FIGURES = 3
"""Fields of a report without details."""
_NO_DETAILS: dict[str, Any] = {}


def usual_usage(reported: Any) -> Usage | None:
    """A report as OpenAI itself writes it, consistent in itself; `None` for any other.

    Nearly every report is one, and `_any_spelling` looks for a hundred names; both give the same for it.
    """
    if type(reported) is not dict or not _USUAL.issuperset(reported):
        return None
    prompt, completion = reported.get("prompt_tokens"), reported.get("completion_tokens")
    cached = reasoning = 0
    if len(reported) > _FIGURES:  # otherwise it has no details
        inputs = reported.get("prompt_tokens_details") or _NO_DETAILS
        outputs = reported.get("completion_tokens_details") or _NO_DETAILS
        if type(inputs) is not dict or not _USUAL_PROMPT.issuperset(inputs):
            return None
        if type(outputs) is not dict or not _USUAL_COMPLETION.issuperset(outputs):
            return None
        cached, reasoning = inputs.get("cached_tokens", 0), outputs.get("reasoning_tokens", 0)
        if type(cached) is not int or type(reasoning) is not int or cached < 0 or reasoning < 0:
            return None
    total = reported.get("total_tokens")
    if type(prompt) is not int or type(completion) is not int or type(total) is not int:
        return None
    if total != prompt + completion or total >= MAX_REPORTED_TOKENS:
        return None
    if not 0 < prompt >= cached or not 0 <= completion >= reasoning:
        return None
    return Usage(prompt, completion, cached, 0, reasoning)


def _any_spelling(reported: Mapping[str, Any]) -> Usage | None:
    prompt, completion, total = (_first(reported, names) for names in (PROMPT, COMPLETION, TOTAL))
    inside = [reported, *_objects(reported, PROMPT_DETAILS), *_objects(reported, ("cache_creation",))]
    cached, written, hour = (_inside(inside, names) for names in (CACHED, WRITTEN, WRITTEN_1H))
    hour = hour or 0
    if written is None:
        written = hour + (_first(inside[-1], ("ephemeral_5m_input_tokens",)) or 0)
    reasoning = _inside([reported, *_objects(reported, COMPLETION_DETAILS)], REASONING) or 0
    if thoughts := _first(reported, THOUGHTS):
        completion = min((completion or 0) + thoughts, MAX_REPORTED_TOKENS)
    if tools := _first(reported, TOOL_PROMPT):
        prompt = min((prompt or 0) + tools, MAX_REPORTED_TOKENS)
    beside = (cached or 0) + written
    apart = _stands_apart(reported, prompt, completion, total, beside, reasoning)
    prompt = _whole_prompt(reported, prompt, beside, apart=apart)
    if prompt is None and completion is None and total is None:
        return None
    prompt, completion = _with_total(reported, prompt or 0, completion or 0, total or 0, reasoning)
    cached = part_within(cached or 0, prompt)
    written = part_within(written, prompt - cached)
    return Usage(
        prompt,
        completion,
        cached,
        written,
        part_within(reasoning, completion),
        part_within(hour, written),
        tuple(_tool_calls(reported)),
        _tier(reported),
    )


def _stands_apart(
    reported: Mapping[str, Any],
    prompt: int | None,
    completion: int | None,
    total: int | None,
    beside: int,
    reasoning: int,
) -> bool:
    """Whether the prompt does not include the `beside` tokens that were read from or written to a cache.

    Anthropic's `input_tokens` never does; of other figures the total tells, or the sizes do.
    """
    if "prompt_tokens" not in reported and any(
        name in reported for name in (*SEPARATE_CACHE_FIELDS, "cache_creation")
    ):
        return True
    if not beside or not prompt:
        return False
    more = (total or 0) - prompt - (completion or 0)
    if more > 0:
        return more != reasoning and more in (beside, beside + reasoning)
    return beside > prompt and not total


def _whole_prompt(reported: Mapping[str, Any], prompt: int | None, beside: int, *, apart: bool) -> int | None:
    """With the parts that some upstreams report apart from it."""
    if apart:
        return min((prompt or 0) + beside, MAX_REPORTED_TOKENS)
    misses = _first(reported, ("prompt_cache_miss_tokens",))
    if misses is not None and (prompt is None or prompt == misses):
        return min(misses + beside, MAX_REPORTED_TOKENS)
    return prompt


def _with_total(
    reported: Mapping[str, Any], prompt: int, completion: int, total: int, reasoning: int
) -> tuple[int, int]:
    """Prompt and completion that add up to what the upstream calls the total."""
    if not prompt and not completion:
        return total, 0  # an embedding, or unknown: the prompt is the larger part of nearly all requests
    if reasoning > completion:
        completion += reasoning
    if total > prompt + completion:
        if not prompt and "prompt_tokens" not in reported:
            return total - completion, completion
        completion = total - prompt
    return prompt, min(completion, MAX_REPORTED_TOKENS)


def _tool_calls(reported: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    found: dict[str, int] = {}
    for place in (reported, *_objects(reported, ("server_tool_use",))):
        for spelling, name in TOOL_CALLS.items():
            calls = _count(place.get(spelling)) or 0
            found[name] = max(found.get(name, 0), calls)
    return ((name, calls) for name, calls in found.items() if calls)


def _tier(reported: Mapping[str, Any]) -> str:
    """The service tier; a faster mode that costs more is one, too."""
    for name in ("speed", "service_tier"):
        tier = reported.get(name)
        if isinstance(tier, str) and tier not in ("", "standard"):
            return tier[:32]
    tier = reported.get("service_tier")
    return tier[:32] if isinstance(tier, str) else ""


def _objects(reported: Mapping[str, Any], names: Iterable[str]) -> list[Mapping[str, Any]]:
    return [found for name in names if isinstance(found := reported.get(name), Mapping)]


def _inside(places: Iterable[Mapping[str, Any]], names: Iterable[str]) -> int | None:
    """The largest of them: upstreams that tell a figure in two spellings leave one of them at 0."""
    names = tuple(names)
    found = [count for place in places if (count := _first(place, names)) is not None]
    return max(found, default=None)


def _first(place: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """The first of them that is reported and not 0; 0 if only 0 is reported; `None` if none is."""
    reported = [count for name in names if (count := _count(place.get(name))) is not None]
    return next((count for count in reported if count), 0 if reported else None)


def _count(value: object) -> int | None:
    """A count as JSON may have it, at most `MAX_REPORTED_TOKENS`; `None` for anything else.

    Fractions are rounded up; a string of digits is a count too.
    """
    if isinstance(value, str) and DIGITS.fullmatch(value):
        value = float(value)
    if isinstance(value, float):
        if not 0 <= value < float("inf"):
            return None
        value = math.ceil(min(value, MAX_REPORTED_TOKENS))
    if type(value) is not int or value < 0:  # a bool is no number in JSON
        return None
    return min(value, MAX_REPORTED_TOKENS)


def part_within(value: int, whole: int) -> int:
    """A detail of a figure, or 0 where it contradicts the figure."""
    return value if value <= whole else 0


def merged(earlier: Usage | None, later: Usage) -> Usage:
    """Two reports on one answer, class by class the larger one; the later one of equal ones."""
    if earlier is None:
        return later
    prompt = later if later.prompt_tokens >= max(earlier.prompt_tokens, 1) else earlier
    completion = later if later.completion_tokens >= max(earlier.completion_tokens, 1) else earlier
    return Usage(
        prompt.prompt_tokens,
        completion.completion_tokens,
        prompt.cached_tokens,
        prompt.cache_write_tokens,
        completion.reasoning_tokens,
        prompt.cache_write_1h_tokens,
        later.tool_calls or earlier.tool_calls,
        later.service_tier or earlier.service_tier,
    )


def total_usage(parts: Iterable[Usage | None]) -> Usage:
    """The tokens of several calls; each sum is at most `MAX_REPORTED_TOKENS`."""
    total = Usage()
    for part in parts:
        if part is not None:
            total = Usage(
                _sum(total.prompt_tokens, part.prompt_tokens),
                _sum(total.completion_tokens, part.completion_tokens),
                _sum(total.cached_tokens, part.cached_tokens),
                _sum(total.cache_write_tokens, part.cache_write_tokens),
                _sum(total.reasoning_tokens, part.reasoning_tokens),
                _sum(total.cache_write_1h_tokens, part.cache_write_1h_tokens),
            )
    return total


def _sum(one: int, other: int) -> int:
    return min(one + other, MAX_REPORTED_TOKENS)


# --- how far it is believed ----------------------------------------------------------------------------------
