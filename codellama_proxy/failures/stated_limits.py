"""The highest `max_tokens` that an upstream's refusal states. Pure.

The words are those of OpenAI, Anthropic, DeepSeek, Groq, Cohere, Bedrock, Gemini, vLLM and Text Generation Inference.
"""

from __future__ import annotations

import re

MIN_STATED_TOKENS = 16
"""A limit below this leaves no room for an answer."""
MAX_READ_CHARACTERS = 1000
"""How much of a message is read."""

_LIMITS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bis too large: \d{1,9}\. this model supports at most (\d{1,9}) completion tokens",
        r"\bmax_tokens: \d{1,9} > (\d{1,9}), which is the maximum allowed number of output tokens",
        r"\bvalid range of max_tokens is \[1, ?(\d{1,9})\]",
        r"\bmax[_ ](?:completion_|output_)?tokens[`'\"]? must be less than or equal to [`'\"]?(\d{1,9})",
        r"\bmaximum tokens you requested exceeds the model limit of (\d{1,9})",
        r"\bmaxOutputTokens value of \d{1,9} but the supported range is from 1 \(inclusive\) to (\d{1,9})"
        r" \(exclusive\)",
    )
)
_ROOMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"maximum context length is (?P<all>\d{1,9}) tokens and your request has (?P<used>\d{1,9}) input tokens",
        r"maximum context length is (?P<all>\d{1,9}) tokens\. however, you requested (?:about )?\d{1,9} tokens"
        r" \((?P<used>\d{1,9}) (?:in|of) ",
        r"tokens \+ `?max_new_tokens`? must be <= (?P<all>\d{1,9})\. given: (?P<used>\d{1,9}) ",
        r"exceed context limit: (?P<used>\d{1,9}) \+ \d{1,9} > (?P<all>\d{1,9})",
    )
)
"""Messages that state the whole context window and the part that the prompt takes."""


def stated_max_tokens(message: str) -> int | None:
    """The highest `max_tokens` with which the request would fit; `None` if the message does not say."""
    text = message[:MAX_READ_CHARACTERS]
    found = [int(match[1]) - ("exclusive" in match[0]) for one in _LIMITS if (match := one.search(text))]
    found += [int(match["all"]) - int(match["used"]) for one in _ROOMS if (match := one.search(text))]
    most = min(found, default=0)
    return most if most >= MIN_STATED_TOKENS else None
