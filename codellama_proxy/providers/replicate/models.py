"""The input names of Replicate's models, as data; they differ between models.

The names are observed, not documented; an entry's `input_map` and `prompt_format` override them. Only inputs that a
model is known to have are used: unknown ones might be ignored, and the guardrail with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from codellama_proxy.core.snapshot import Deployment, Json


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one model."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Its names for OpenAI's parameters, and for `messages`, `prompt`, `system` and `image`."""
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
    """The known inputs of a model with the entry's `input_map` applied; null there removes an input."""
    model = deployment.base_model or deployment.model
    known = next(inputs for pattern, inputs in MODELS.items() if fnmatchcase(model, pattern))
    own: Json = deployment.extra.get("input_map") or {}
    names = {name: word for name, word in {**known.names, **own}.items() if isinstance(word, str)}
    prompt_format = deployment.extra.get("prompt_format") or known.prompt_format
    return Inputs(names, prompt_format, known.least_temperature)


# --- conversations as one text -------------------------------------------------------------------------------


Turn = tuple[str, str]
"""A role, `user` or `assistant`, and a text."""


def prompt(system: str, turns: Sequence[Turn], form: str) -> str:
    """The conversation as one text, to be continued by the assistant; a single user message is unchanged."""
    if not system and len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return FORMS[form](system, turns)


def plain(system: str, turns: Sequence[Turn]) -> str:
    if len(turns) == 1 and turns[0][0] == "user":
        return f"{system}\n\n{turns[0][1]}"
    named = [("System", system)] if system else []
    lines = [f"{who}: {text}" for who, text in (*named, *((role.title(), text) for role, text in turns))]
    return "\n\n".join([*lines, "Assistant:"])


def llama2(system: str, turns: Sequence[Turn]) -> str:
    """The prompt without the leading begin-of-text token, which the server adds."""
    first = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    pieces: list[str] = []
    for role, text in turns:
        if role == "user":
            pieces.append(f"[INST] {first}{text} [/INST]")
            first = ""
        else:
            pieces.append(text)
    if first:
        pieces.insert(0, f"[INST] {first.rstrip()} [/INST]")
    return " ".join(pieces)


def chatml(system: str, turns: Sequence[Turn]) -> str:
    named = [("system", system)] if system else []
    lines = [f"<|im_start|>{role}\n{text}<|im_end|>" for role, text in (*named, *turns)]
    return "\n".join([*lines, "<|im_start|>assistant\n"])


FORMS: Mapping[str, Callable[[str, Sequence[Turn]], str]] = {
    "plain": plain,
    "llama2": llama2,
    "chatml": chatml,
}
