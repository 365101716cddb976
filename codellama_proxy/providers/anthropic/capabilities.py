"""The capabilities of each family of Claude models, as data; corrections belong here.

An unknown `claude-*` is treated as one of the newest family. Any other name belongs to a compatible server and gets
the basic form of every feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from codellama_proxy.core.snapshot import Deployment

NEW_VERSION = "2026-10-21"
OLD_VERSION = "2023-06-01"
"""The last version of the API that accepts sampling parameters."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    sampling: bool = False
    """Accepts temperature, top_p and top_k."""
    one_of_two: bool = False
    """Accepts only one of temperature and top_p."""
    prefill: bool = False
    """Continues an assistant message that ends the conversation."""
    thinking: Literal["none", "budget", "adaptive", "always"] = "adaptive"
    forced_tools: bool = True
    """Accepts `tool_choice` any and tool, but never with thinking."""
    efforts: tuple[str, ...] = ("low", "medium", "high", "xhigh", "max")
    """The values of `output_config.effort`, ascending; empty if it is not supported."""
    late_system: bool = True
    """Accepts system messages after the beginning of the conversation."""
    cache_marks: bool = True
    """Caches prompts at marks; other servers cache by themselves, and may refuse marks."""


OLD = Capabilities(sampling=True, prefill=True, thinking="none", efforts=(), late_system=False)
CLAUDE_4 = Capabilities(sampling=True, prefill=True, thinking="budget", efforts=(), late_system=False)
BUDGET = replace(CLAUDE_4, one_of_two=True)
OPUS_4_5 = Capabilities(
    sampling=True,
    one_of_two=True,
    prefill=True,
    thinking="budget",
    efforts=("low", "medium", "high"),
    late_system=False,
)
CLAUDE_4_6 = Capabilities(
    sampling=True, one_of_two=True, efforts=("low", "medium", "high", "max"), late_system=False
)
CLAUDE_4_7 = Capabilities(late_system=False)
CLAUDE_5 = Capabilities()
ALWAYS_THINKING = Capabilities(thinking="always", forced_tools=False)
COMPATIBLE = Capabilities(
    sampling=True, prefill=True, thinking="budget", efforts=(), late_system=False, cache_marks=False
)

# The first pattern found in the name decides. A number must end, because dates follow names.
FAMILIES: tuple[tuple[str, Capabilities], ...] = (
    (r"claude-(?:instant|2|3)", OLD),
    (r"claude-(?:opus|sonnet)-4-1(?!\d)", BUDGET),
    (r"claude-(?:opus|sonnet)-4(?:-0)?(?!-?\d(?!\d))", CLAUDE_4),
    (r"(?:haiku|sonnet)-4-5", BUDGET),
    (r"opus-4-5", OPUS_4_5),
    (r"(?:sonnet|opus)-4-6", CLAUDE_4_6),
    (r"opus-4-7", CLAUDE_4_7),
    (r"opus-4-8", CLAUDE_5),
    (r"(?:opus|sonnet|fable|mythos)-5-[1-9](?!\d)|(?:fable|mythos)-5", ALWAYS_THINKING),
    (r"haiku-5|(?:opus|sonnet)-5", CLAUDE_5),
    (r"claude", ALWAYS_THINKING),
)

# reasoning_effort -> the nearest value, for models that do not support it.
NEAREST_EFFORT: Mapping[str, str] = {"minimal": "low", "xhigh": "high", "max": "high"}
BUDGETS: Mapping[str, int] = {
    "minimal": 1024,
    "low": 1024,
    "medium": 4096,
    "high": 16_384,
    "xhigh": 16_384,
    "max": 16_384,
}
"""Thinking tokens by effort, for models with token budgets instead of effort levels."""
MIN_BUDGET_TOKENS = 1024


def capabilities(deployment: Deployment) -> Capabilities:
    """The capabilities of the entry's `base_model`, else of its model name."""
    name = (deployment.base_model or deployment.model).lower().replace(".", "-")
    return next((found for pattern, found in FAMILIES if re.search(pattern, name)), COMPATIBLE)
