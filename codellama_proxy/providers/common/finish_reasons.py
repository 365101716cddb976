"""Finish reasons of all providers, and OpenAI's values for them."""

from __future__ import annotations

from collections.abc import Mapping

FINISH_REASONS: Mapping[str, str] = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "end", "pause_turn"), "stop"
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "model_length", "model_context_window_exceeded", "max_new_tokens"), "length"
    ),
    **dict.fromkeys(("tool_calls", "tool_use", "tool_call"), "tool_calls"),
    "function_call": "function_call",
    **dict.fromkeys(
        (
            "content_filter",
            "refusal",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "image_safety",
            "model_armor",
            "language",
            "guardrail_intervened",
            "content_filtered",
            "sensitive",
        ),
        "content_filter",
    ),
}

ABANDONED = frozenset(
    {
        *("error", "timeout", "failed", "abort", "aborted", "cancelled", "canceled"),
        *("engine_error", "server_error", "network_error", "insufficient_system_resource"),
    }
)
"""Reasons that mean the upstream aborted: the text so far is not an answer."""

BROKEN_FINISH = {
    "malformed_function_call",
    "unexpected_tool_call",
    "other",
    "incomplete",
}
"""Reasons that mean the upstream failed: an error when there is no text, else `stop`."""


def finish_reason(reason: str) -> str:
    """One of OpenAI's five values; unknown reasons become `stop`."""
    return FINISH_REASONS.get(reason.lower(), "stop")
