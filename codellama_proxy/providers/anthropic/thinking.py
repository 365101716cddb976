"""How much a Claude model thinks: by a word, by a number of tokens, always, or not at all.

Thinking excludes forced tool use and sampling parameters. Where it is counted in tokens, the turn that called
tools must come back with its thinking; a client that did not keep it gets an answer without.
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
from codellama_proxy.providers.anthropic.tools import FORCED
from codellama_proxy.providers.common.parameters import ParameterSet

OFF = {"type": "disabled"}


@dataclass(frozen=True, slots=True)
class Thinking:
    thinking: Mapping[str, Any] | None = None
    effort: str | None = None


def thinking_of(
    asked: ParameterSet,
    able: Capabilities,
    messages: Sequence[Message],
    max_tokens: int,
    choice: Mapping[str, Any],
) -> tuple[ParameterSet, Thinking]:
    """What is said about it, and the parameters that may still be given."""
    asked, found = _by_effort(asked, able, max_tokens)
    thinking = asked.params.get("thinking") or found.thinking
    if thinking and not isinstance(thinking, Mapping):
        raise invalid_type("thinking", "object")
    if _counted(thinking) and _forgotten(messages):
        thinking = None
    if choice.get("type") in FORCED and (thinking or able.thinking == "adaptive"):
        thinking = OFF
    if thinking and thinking.get("type") != "disabled":
        asked = _without_sampling(asked)
    return asked, Thinking(thinking, found.effort)


def _by_effort(asked: ParameterSet, able: Capabilities, max_tokens: int) -> tuple[ParameterSet, Thinking]:
    effort = asked.params.get("reasoning_effort")
    if effort is None:
        return asked, Thinking()
    if effort == "none":
        if able.thinking == "always":
            return asked.refuse("reasoning_effort"), Thinking()
        return asked, Thinking(OFF if able.thinking == "adaptive" else None)
    if effort not in BUDGETS:
        words = ", ".join(["none", *BUDGETS])
        raise invalid_value("reasoning_effort", f"'reasoning_effort' must be one of {words}.")
    if able.efforts:
        word = effort if effort in able.efforts else NEAREST_EFFORT[effort]
        return asked, Thinking({"type": "adaptive"} if able.thinking == "adaptive" else None, word)
    if able.thinking == "none":
        return asked.refuse("reasoning_effort"), Thinking()
    return asked, Thinking(_budget(BUDGETS[effort], max_tokens))


def _budget(wanted: int, max_tokens: int) -> Mapping[str, Any] | None:
    """Half of what may be said at most; none if that is too little to think at all."""
    if max_tokens <= MIN_BUDGET_TOKENS:
        return None
    return {"type": "enabled", "budget_tokens": min(wanted, max(MIN_BUDGET_TOKENS, max_tokens // 2))}


def _counted(thinking: object) -> bool:
    return isinstance(thinking, Mapping) and thinking.get("type") == "enabled"


def _forgotten(messages: Sequence[Message]) -> bool:
    """Whether the last turn called tools and came back without the thoughts that led there."""
    said = (m for m in reversed(messages) if m["role"] == "assistant" and (_says(m) or m.get("tool_calls")))
    last: Message = next(said, {})
    return bool(last.get("tool_calls")) and not last.get("thinking_blocks")


def _says(message: Message) -> bool:
    """Whether anything is left of it: empty texts are not sent."""
    content = message.get("content")
    if isinstance(content, str):
        return bool(content.strip())
    texts = ("text", "refusal")
    return any(
        part["type"] not in texts or str(part.get(part["type"]) or "").strip() for part in content or ()
    )


def _without_sampling(asked: ParameterSet) -> ParameterSet:
    for name in ("temperature", "top_k"):
        if name in asked.params:
            asked = asked.without(name) if asked.params[name] == 1 else asked.drop(name)
    return asked.drop("top_p") if asked.params.get("top_p", 1) < 0.95 else asked
