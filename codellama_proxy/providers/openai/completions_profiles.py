"""What differs between the providers whose OpenAI dialect completes plain text, as data, and who they are.

A deployment completes text if its entry says `mode: completion` or `completions: true`. `suffix` asks to fill in the
middle; CodeLlama does that by tokens of its own wherever an endpoint has no such parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CODELLAMA = re.compile(r"code-?llama(?!.*70b)", re.IGNORECASE)  # the 70B models were not taught to


@dataclass(frozen=True, slots=True)
class CompletionProfile:
    path: str = "/completions"
    suffix: bool = True
    """Has the parameter."""
    one_text: bool = False
    """`prompt` is one string: neither several nor token ids."""
    reject: frozenset[str] = frozenset()
    """Besides what its chats reject."""


RAW = CompletionProfile(suffix=False)
"""A server that completes whatever it is given."""

COMPLETION_PROFILES: Mapping[str, CompletionProfile] = {
    "openai": CompletionProfile(),
    "azure": CompletionProfile(),
    "together": CompletionProfile(suffix=False, one_text=True),
    "fireworks": RAW,
    "vllm": RAW,
    "llamacpp": RAW,
    "lmstudio": RAW,
    "openrouter": CompletionProfile(suffix=False, one_text=True),
    "ollama": CompletionProfile(one_text=True),
    "deepseek": CompletionProfile(path="/beta/completions", one_text=True),
    "mistral": CompletionProfile(
        path="/fim/completions",
        one_text=True,
        reject=frozenset({"n", "best_of", "echo", "presence_penalty", "frequency_penalty"}),
    ),
    "xai": CompletionProfile(),
    "cerebras": CompletionProfile(suffix=False),
    "nvidia": CompletionProfile(suffix=False),
    "huggingface": CompletionProfile(suffix=False),
    "openai_compatible": CompletionProfile(suffix=False),
    "mock": CompletionProfile(),
}


def fills_by_tokens(row: CompletionProfile, model: str) -> bool:
    """Whether the gap is marked in the prompt, because there is no parameter for it."""
    return not row.suffix and CODELLAMA.search(model) is not None


def with_gap(before: str, after: str) -> str:
    """CodeLlama's words for "fill in what is between these"."""
    return f"<PRE> {before} <SUF>{after} <MID>"


END_OF_GAP = "<EOT>"
"""By which CodeLlama says that the gap is filled; not every server stops there by itself."""
