"""The codes, types and messages of upstream errors, and what they stand for.

A message can repeat the client's own text. It therefore decides only what affects this one request: the reason of a
`caller` failure, or that the deployment is passed over. Cooldowns depend on status, `code` and `type` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

QUOTA = frozenset(
    {
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
"""Codes and types of a quota or a budget that is used up."""
KEY = frozenset({"invalid_api_key", "api_key_invalid", "authentication_error"})
MODEL = frozenset({"model_not_found", "deploymentnotfound", "model_not_supported"})
"""Codes and types that mean our key, and our name for the model."""

STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "tool_use_failed": 400,
    "json_validate_failed": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status for a code or type of an error without a status."""

_CONTEXT_LENGTH = (
    "maximum context length",
    "context length",
    "context window",
    "exceed context limit",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "exceeds the available context size",
    "exceeds the maximum number of tokens allowed",
    "input tokens exceed the configured limit",
    "maximum input length is",
    "reduce the length",
)
_CONTEXT_LENGTH_PAIRS = (("max_new_tokens", "must be"), ("current length is", "while limit is"))
_CONTENT_FILTER = (
    "safety system",
    "content management policy",
    "usage guidelines",
    "flagged by",
    "blocked content",
)
_CONTENT_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked", "responsibleaipolicyviolation"}
)
_OTHER_LENGTH = "string_above_max_length"

_PASSED_OVER = re.compile(
    r"model ['\"`].{1,200}['\"`] (?:does not exist|not found)\b"
    r"|the requested resource could not be found"
    r"|the model [`'\"].{1,200}[`'\"] does not exist"
    r"|model: \S{1,200}$"
    r"|api key not valid\b"
    r"|the (?:requested )?model .{0,200}is not supported by any provider you have enabled"
    r"|your credit balance is too low to access the (?:anthropic|claude) api\b"
    r"|you have reached your specified api usage limits\b"
)
"""How messages begin that mean our account or our name for the model, but say so in no code."""


def caller_reason(message: str, code: str, *, flagged: bool = False) -> str:
    """`context_length` or `content_filter`; empty for every other fault of a caller."""
    text = message.lower()
    if code == "context_length_exceeded":
        return "context_length"
    if flagged or code.lower() in _CONTENT_FILTER_CODES or any(words in text for words in _CONTENT_FILTER):
        return "content_filter"
    if _OTHER_LENGTH in text or code == _OTHER_LENGTH:
        return ""
    if any(words in text for words in _CONTEXT_LENGTH):
        return "context_length"
    if any(first in text and second in text for first, second in _CONTEXT_LENGTH_PAIRS):
        return "context_length"
    return ""


def passes_over(message: str) -> bool:
    """Whether a 400 or 404 without a telling code asks to be tried elsewhere."""
    return _PASSED_OVER.match(message.lower()) is not None
