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
class Texts:
    path: str = "/completions"
    suffix: bool = True
    """Has the parameter."""
    one_text: bool = False
    """`prompt` is one string: neither several nor token ids."""
    reject: frozenset[str] = frozenset()
    """Besides what its chats reject."""


RAW = Texts(suffix=False)
"""A server that completes whatever it is given."""

TEXTS: Mapping[str, Texts] = {
    "openai": Texts(),
    "azure": Texts(),
    "together": Texts(suffix=False, one_text=True),
    "fireworks": RAW,
    "vllm": RAW,
    "llamacpp": RAW,
    "lmstudio": RAW,
    "openrouter": Texts(suffix=False, one_text=True),
    "ollama": Texts(one_text=True),
    "deepseek": Texts(path="/beta/completions", one_text=True),
    "mistral": Texts(
        path="/fim/completions",
        one_text=True,
        reject=frozenset({"n", "best_of", "echo", "presence_penalty", "frequency_penalty"}),
    ),
    "xai": Texts(),
    "cerebras": Texts(suffix=False),
    "nvidia": Texts(suffix=False),
    "huggingface": Texts(suffix=False),
    "openai_compatible": Texts(suffix=False),
    "mock": Texts(),
}


def fills_by_tokens(row: Texts, model: str) -> bool:
    """Whether the gap is told in the prompt, for want of the parameter."""
    return not row.suffix and CODELLAMA.search(model) is not None


def with_gap(before: str, after: str) -> str:
    """CodeLlama's words for "fill in what is between these"."""
    return f"<PRE> {before} <SUF>{after} <MID>"


END_OF_GAP = "<EOT>"
"""By which CodeLlama says that the gap is filled; not every server stops there by itself."""
