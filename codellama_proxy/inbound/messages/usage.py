"""Usage and stop reasons in Anthropic's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama_proxy.core.types import Usage

STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""OpenAI's finish reason -> stop reason."""


def usage_json(usage: Usage) -> dict[str, Any]:
    """The `usage` object: here, input tokens do not include those read from or written to a cache."""
    cached = max(usage.cached_tokens, 0)
    written = max(usage.cache_write_tokens, 0)
    shown: dict[str, Any] = {
        "input_tokens": max(usage.prompt_tokens - cached - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": max(usage.completion_tokens, 0),
    }
    if usage.cache_write_1h_tokens > 0:
        hour = min(usage.cache_write_1h_tokens, written)
        shown["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        }
    if usage.reasoning_tokens > 0:
        shown["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return shown


def ending(finish_reason: str | None, refusal: str, *, called: bool) -> dict[str, Any]:
    """`stop_reason` and what belongs to it; `tool_use` whenever a tool was called, as clients act on the reason."""
    reason = STOP_REASONS.get(finish_reason or "stop", "end_turn")
    if refusal:
        reason = "refusal"
    elif called and reason == "end_turn":
        reason = "tool_use"
    elif reason == "tool_use" and not called:
        reason = "end_turn"
    found: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
    if reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": refusal or None}
        found["stop_details"] = details
    return found
