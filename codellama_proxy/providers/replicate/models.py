"""What Replicate's models call their inputs, as data: every model there has its own.

Names are from the field, not promised; an entry's `input_map` and `prompt_format` correct them. Only words that a
model surely knows are used: one it does not know might be ignored, the guardrail with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from codellama_proxy.core.snapshot import Deployment, Json


@dataclass(frozen=True, slots=True)
class Inputs:
    """One model's words."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Our parameters' names in its input, and those of `messages`, `prompt`, `system` and `image`."""
    prompt_format: str = "plain"
    """How messages become one text: `plain`, `llama2`, `chatml`."""
    least_temperature: float = 0.0


SAMPLING = {"temperature": "temperature", "top_p": "top_p"}
PENALTIES = {"presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty"}
COMMON = {
    "prompt": "prompt",
    "max_tokens": "max_tokens",
    **SAMPLING,
    "top_k": "top_k",
    "seed": "seed",
    "stop": "stop_sequences",
}
LLAMA = {**COMMON, **PENALTIES, "system": "system_prompt"}

# The first that matches wins.
MODELS: Mapping[str, Inputs] = {
    "openai/*": Inputs(
        {
            "messages": "messages",
            "image": "image_input",
            "max_tokens": "max_completion_tokens",
            **SAMPLING,
            **PENALTIES,
            "reasoning_effort": "reasoning_effort",
            "verbosity": "verbosity",
        }
    ),
    "anthropic/*": Inputs(
        {"prompt": "prompt", "system": "system_prompt", "max_tokens": "max_tokens", "image": "image"}
    ),
    "google/gemini*": Inputs(
        {
            "prompt": "prompt",
            "system": "system_instruction",
            "max_tokens": "max_output_tokens",
            **SAMPLING,
        }
    ),
    "meta/codellama*": Inputs({**COMMON, **PENALTIES}, "llama2", 0.01),
    "meta/llama-2*": Inputs(
        {**COMMON, "system": "system_prompt", "max_tokens": "max_new_tokens"}, "llama2", 0.01
    ),
    "meta/*": Inputs(LLAMA),
    "mistralai/*": Inputs({**COMMON, **PENALTIES, "max_tokens": "max_new_tokens"}),
    "deepseek-ai/*": Inputs({**COMMON, **PENALTIES}),
    "*": Inputs(COMMON),
}


def inputs_of(deployment: Deployment) -> Inputs:
    """The model's words, as far as they are known, and as the entry corrects them; null takes one away."""
    model = deployment.base_model or deployment.model
    known = next(inputs for pattern, inputs in MODELS.items() if fnmatchcase(model, pattern))
    own: Json = deployment.extra.get("input_map") or {}
    names = {name: word for name, word in {**known.names, **own}.items() if isinstance(word, str)}
    prompt_format = deployment.extra.get("prompt_format") or known.prompt_format
    return Inputs(names, prompt_format, known.least_temperature)
