"""What LiteLLM calls things, what they are called here, and how its values read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

PREFIXES: Mapping[str, str] = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "together_ai": "together",
    "cohere": "cohere",
    "cohere_chat": "cohere",
    "ai21": "ai21",
    "ai21_chat": "ai21",
    "replicate": "replicate",
    "huggingface": "huggingface",
    "gemini": "gemini",
    "bedrock": "bedrock",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "openrouter": "openrouter",
    "xai": "xai",
    "cerebras": "cerebras",
    "perplexity": "perplexity",
    "nvidia_nim": "nvidia",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "vllm": "vllm",
    "hosted_vllm": "vllm",
    "lm_studio": "lmstudio",
    "custom_openai": "openai_compatible",
}
KNOWN_NAMES = {
    "gpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "chatgpt-": "openai",
    "text-embedding-": "openai",
    "claude-": "anthropic",
    "command-": "cohere",
}
PARAMS = frozenset(
    [
        "temperature",
        "top_p",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "logit_bias",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "logprobs",
        "top_logprobs",
        "service_tier",
    ]
)
MODES = {"chat": "chat", "completion": "completion", "embedding": "embedding"}
ENVIRONMENT = "os.environ/"

ELSEWHERE = frozenset(
    {"model", "custom_llm_provider", "input_cost_per_token", "output_cost_per_token", "mode"}
    | {"cache_read_input_token_cost", "cache_creation_input_token_cost"}
)
RENAMED: Mapping[str, tuple[str, ...]] = {
    "api_key": ("api_key",),
    "api_base": ("base_url",),
    "base_url": ("base_url",),
    "weight": ("weight",),
    "timeout": ("timeouts", "answer"),
    "stream_timeout": ("timeouts", "first_token"),
    "extra_headers": ("headers",),
    "drop_params": ("drop_params",),
}
PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
}
INFO = frozenset({"mode", "base_model", "max_input_tokens", "id", "max_tokens", "max_output_tokens"})
FALLBACKS = frozenset(
    {"fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "default_fallbacks"}
)
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "num_retries": ("routing", "retries"),
    "allowed_fails": ("routing", "cooldown", "failures"),
    "cooldown_time": ("routing", "cooldown", "time"),
    "request_timeout": ("timeouts", "answer"),
    "timeout": ("timeouts", "answer"),
    "stream_timeout": ("timeouts", "first_token"),
    "max_budget": ("limits", "global", "max_budget"),
    "budget_duration": ("limits", "global", "budget_duration"),
}
WHY: Mapping[str, str] = {
    "rpm": "deployments have no limits of their own here; weight shares the traffic",
    "tpm": "deployments have no limits of their own here",
    "max_retries": "routing.retries is for all models",
    "master_key": "set PROXY_MASTER_KEY in the environment",
    "database_url": "set PROXY_DATABASE in the environment",
    "organization": "write it into headers, as openai-organization",
    "routing_strategy": "traffic is shared by weight here",
    "model_group_alias": "write an entry for each alias",
}


def address(provider: str, url: str) -> str:
    """The base of OpenAI's dialect, where LiteLLM is told the server and knows the way itself."""
    if provider not in ("ollama", "huggingface"):
        return url
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def base_model(name: str) -> str:
    """A model's own name: `azure/eu/gpt-4o` is a gpt-4o."""
    prefix, _, rest = name.partition("/")
    if prefix not in PREFIXES or not rest:
        return name
    return rest.rpartition("/")[2] if prefix == "azure" else rest


def substituted(value: Any) -> Any:
    """`os.environ/X` as `${X}`, however deep."""
    if isinstance(value, str) and value.startswith(ENVIRONMENT):
        return f"${{{value.removeprefix(ENVIRONMENT)}}}"
    if isinstance(value, dict):
        return {name: substituted(inner) for name, inner in value.items()}
    return [substituted(inner) for inner in value] if isinstance(value, list) else value


def is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def per_million(per_token: int | Decimal) -> Decimal:
    return round(Decimal(per_token) * 1_000_000, 9).normalize()
