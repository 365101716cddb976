"""Claude's thinking: controlled by an effort level or a token budget, always on, or not supported.

Thinking excludes forced tool use and sampling parameters. With a token budget, the API requires the thinking blocks
of a turn that called tools; if the client did not keep them, thinking is disabled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codellama_proxy.openai_format.fields import invalid_type, invalid_value
from codellama_proxy.openai_format.request import Message
from codellama_proxy.providers.anthropic.capabilities import (
    BUDGETS,
    MIN_BUDGET_TOKENS,
    NEAREST_EFFORT,
    Capabilities,
)
from codellama_proxy.providers.anthropic.messages import is_signed
from codellama_proxy.providers.anthropic.tools import FORCED
from codellama_proxy.providers.common.parameters import ParameterSet

OFF = {"type": "disabled"}


@dataclass(frozen=True, slots=True)
class Thinking:
    thinking: Mapping[str, Any] | None = None
    effort: str | None = None


def thinking_of(
    params: ParameterSet,
    capabilities: Capabilities,
    messages: Sequence[Message],
    max_tokens: int,
    choice: Mapping[str, Any],
) -> tuple[ParameterSet, Thinking]:
    """The remaining parameters, and the thinking settings of the request. Raises `ProxyError`."""
    params, found = _by_effort(params, capabilities, max_tokens)
    thinking = params.params.get("thinking") or found.thinking
    if thinking and not isinstance(thinking, Mapping):
        raise invalid_type("thinking", "object")
    if _has_token_budget(thinking) and _lacks_thinking(messages):
        thinking = None
    if choice.get("type") in FORCED and (thinking or capabilities.thinking == "adaptive"):
        thinking = OFF
    if thinking and thinking.get("type") != "disabled":
        params = _without_sampling(params)
    return params, Thinking(thinking, found.effort)


def _by_effort(
    params: ParameterSet, capabilities: Capabilities, max_tokens: int
) -> tuple[ParameterSet, Thinking]:
    effort = params.params.get("reasoning_effort")
    if effort is None:
        return params, Thinking()
    if effort == "none":
        if capabilities.thinking == "always":
            return params.refuse("reasoning_effort"), Thinking()
        return params, Thinking(OFF if capabilities.thinking == "adaptive" else None)
    if effort not in BUDGETS:
        words = ", ".join(["none", *BUDGETS])
        raise invalid_value("reasoning_effort", f"'reasoning_effort' must be one of {words}.")
    if capabilities.efforts:
        word = effort if effort in capabilities.efforts else NEAREST_EFFORT[effort]
        return params, Thinking({"type": "adaptive"} if capabilities.thinking == "adaptive" else None, word)
    if capabilities.thinking == "none":
        return params.refuse("reasoning_effort"), Thinking()
    return params, Thinking(_budget(BUDGETS[effort], max_tokens))


def _budget(wanted: int, max_tokens: int) -> Mapping[str, Any] | None:
    """At most half of `max_tokens`; `None` if `max_tokens` is too low for thinking."""
    if max_tokens <= MIN_BUDGET_TOKENS:
        return None
    return {"type": "enabled", "budget_tokens": min(wanted, max(MIN_BUDGET_TOKENS, max_tokens // 2))}


def _has_token_budget(thinking: object) -> bool:
    return isinstance(thinking, Mapping) and thinking.get("type") == "enabled"


def _lacks_thinking(messages: Sequence[Message]) -> bool:
    """Whether the last turn called tools and has no signed thinking blocks."""
    turns = (
        m for m in reversed(messages) if m["role"] == "assistant" and (_has_content(m) or m.get("tool_calls"))
    )
    last: Message = next(turns, {})
    blocks = last.get("thinking_blocks")
    signed = isinstance(blocks, list) and any(isinstance(one, Mapping) and is_signed(one) for one in blocks)
    return bool(last.get("tool_calls")) and not signed


def _has_content(message: Message) -> bool:
    """Whether a message has content other than empty texts, which are not sent."""
    content = message.get("content")
    if isinstance(content, str):
        return bool(content.strip())
    texts = ("text", "refusal")
    return any(
        part["type"] not in texts or str(part.get(part["type"]) or "").strip() for part in content or ()
    )


def _without_sampling(params: ParameterSet) -> ParameterSet:
    for name in ("temperature", "top_k"):
        if name in params.params:
            params = params.without(name) if params.params[name] == 1 else params.drop(name)
    return params.drop("top_p") if params.params.get("top_p", 1) < 0.95 else params
