"""Profiles of the providers with text completions in OpenAI's format, as data.

A deployment completes text if its entry has `mode: completion` or `completions: true`. `suffix` requests infilling;
for endpoints without that parameter, CodeLlama's infilling tokens are put into the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

CODELLAMA = re.compile(r"code-?llama(?!.*70b)", re.IGNORECASE)  # the 70B models are not trained for infilling


class CompletionProfile(NamedTuple):
    path: str = "/completions"
    suffix: bool = True
    """Whether it supports `suffix`."""
    one_text: bool = False
    """Whether `prompt` must be one string: neither several nor token ids."""
    reject: frozenset[str] = frozenset()
    """Rejected parameters in addition to those of its chats."""


RAW = CompletionProfile(suffix=False)
"""A server that completes any prompt."""

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
    """Whether the gap is marked in the prompt, because the endpoint has no `suffix`."""
    return not row.suffix and CODELLAMA.search(model) is not None


def with_gap(before: str, after: str) -> str:
    """A prompt with CodeLlama's infilling tokens."""
    return f"<PRE> {before} <SUF>{after} <MID>"


END_OF_GAP = "<EOT>"
"""By which CodeLlama says that the gap is filled; not every server stops there by itself."""
