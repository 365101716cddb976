"""What differs between the providers that speak OpenAI's dialect, as data.

Most of these quirks are known from the field rather than promised by the vendor, so they are corrected here,
in a table, and nowhere in code. Fields are documented on `Dialect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Bookkeeping that cannot change an answer: dropped silently for providers that do not know it.
BOOKKEEPING = frozenset(
    {
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "service_tier",
    }
)


@dataclass(frozen=True, slots=True)
class Dialect:
    base_url: str | None = None
    """`None`: the entry must give one."""
    max_tokens: Literal["as_is", "max_tokens", "by_model"] = "max_tokens"
    """The field's name: as the client wrote it, always the old one, or by OpenAI's model families."""
    developer_role: bool = False
    """Knows the role `developer`; else it becomes `system`."""
    stream_options: bool = True
    """Takes `stream_options.include_usage`; the others report usage unasked."""
    drop: frozenset[str] = BOOKKEEPING
    """Removed without a word."""
    reject: frozenset[str] = frozenset()
    """Would change the answer and is not supported: 400, or dropped and reported with `drop_params`."""
    rename: Mapping[str, str] = field(default_factory=dict)
    tool_choice: Mapping[str, str] = field(default_factory=dict)
    """Other words for `tool_choice`; a named choice is looked up as `named`."""
    message_fields_off: frozenset[str] = frozenset()
    """Message fields this provider refuses."""
    integer_logprobs: bool = False
    """`logprobs` is a number here and answers carry the legacy shape."""
    stop_list: bool = False
    """`stop` must be a list."""
    headers: Mapping[str, str] = field(default_factory=dict)


REASONING_OFF = frozenset({"reasoning_content", "reasoning"})

OPENAI = Dialect(
    base_url="https://api.openai.com/v1",
    max_tokens="by_model",
    developer_role=True,
    drop=frozenset(),
    message_fields_off=REASONING_OFF,
)

DIALECTS: Mapping[str, Dialect] = {
    "openai": OPENAI,
    "together": Dialect(
        base_url="https://api.together.xyz/v1",
        drop=BOOKKEEPING | {"user", "parallel_tool_calls", "verbosity"},
        integer_logprobs=True,
        stop_list=True,
    ),
    "groq": Dialect(
        base_url="https://api.groq.com/openai/v1",
        reject=frozenset({"logprobs", "logit_bias", "top_logprobs", "n"}),
        message_fields_off=REASONING_OFF | {"name"},
    ),
    "mistral": Dialect(
        base_url="https://api.mistral.ai/v1",
        stream_options=False,
        drop=BOOKKEEPING | {"user"},
        reject=frozenset({"logit_bias", "logprobs", "top_logprobs"}),
        rename={"seed": "random_seed"},
        tool_choice={"required": "any", "named": "any"},
        message_fields_off=REASONING_OFF,
    ),
    "deepseek": Dialect(base_url="https://api.deepseek.com"),
    "fireworks": Dialect(base_url="https://api.fireworks.ai/inference/v1"),
    "openrouter": Dialect(base_url="https://openrouter.ai/api/v1", max_tokens="as_is"),
    "xai": Dialect(base_url="https://api.x.ai/v1", max_tokens="as_is"),
    "cerebras": Dialect(base_url="https://api.cerebras.ai/v1", max_tokens="as_is"),
    "perplexity": Dialect(
        base_url="https://api.perplexity.ai",
        reject=frozenset({"tools", "tool_choice", "functions", "function_call"}),
    ),
    "nvidia": Dialect(base_url="https://integrate.api.nvidia.com/v1"),
    "ollama": Dialect(base_url="http://localhost:11434/v1"),
    "vllm": Dialect(max_tokens="as_is"),
    "lmstudio": Dialect(base_url="http://localhost:1234/v1"),
    "llamacpp": Dialect(base_url="http://localhost:8080/v1"),
    "openai_compatible": Dialect(max_tokens="as_is", developer_role=True, drop=frozenset({"metadata"})),
    "mock": Dialect(base_url="mock://mock", max_tokens="as_is"),
}

# Values that ask for nothing: never rejected, because many clients send their defaults.
DEFAULTS: Mapping[str, object] = {
    "n": 1,
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "functions": [],
}
