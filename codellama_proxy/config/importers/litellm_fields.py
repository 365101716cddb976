"""LiteLLM's names, the equivalents here, and conversion of its values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from codellama_proxy.config.yaml.substitution import expand

PREFIXES: Mapping[str, str] = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "azure_ai": "azure",
    "azure_text": "azure",
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
    "codestral": "mistral",
    "text-completion-codestral": "mistral",
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
    "openai_like": "openai_compatible",
    "litellm_proxy": "openai_compatible",
    "llamafile": "openai_compatible",
}
ROUTES: Mapping[str, tuple[str, ...]] = {
    "openai": ("responses", "chat", "completions"),
    "azure": ("responses", "o_series", "gpt5_series", "chat", "completions"),
    "bedrock": ("converse", "converse_like", "invoke", "nova", "llama", "deepseek_r1", "openai", "mantle"),
    "huggingface": ("hf-inference",),
    "openai_compatible": ("responses",),
}
"""By provider: path segments between the prefix and the model that select an API."""
REGION = re.compile(r"[a-z]{2}(?:-gov|-iso)?-[a-z]+-\d")
"""A region of AWS, another such segment."""
KEYS: Mapping[str, str] = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "together": "TOGETHERAI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "ai21": "AI21_API_KEY",
    "replicate": "REPLICATE_API_KEY",
    "huggingface": "HUGGINGFACE_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "fireworks": "FIREWORKS_AI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "xai": "XAI_API_KEY",
    "cerebras": "CEREBRAS_API_KEY",
    "perplexity": "PERPLEXITYAI_API_KEY",
    "nvidia": "NVIDIA_NIM_API_KEY",
}
"""The variables that LiteLLM reads for an entry without a key."""
OTHER_KINDS = re.compile(
    r"dall-e|gpt-image|whisper|transcribe|(?:^|[/-])tts\b|rerank|moderation|stable-diffusion|stability\.|imagen|"
    r"(?:^|/)veo-|(?:^|/)sora|flux-|realtime",
    re.IGNORECASE,
)
"""Names of image and audio models."""
EMBEDDINGS = re.compile(r"(?:^|[/._-])embed(?:ding)?s?(?:$|[/._:-])", re.IGNORECASE)
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
MODES = {"chat": "chat", "completion": "completion", "embedding": "embedding", "responses": "chat"}
ENVIRONMENT = "os.environ/"

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
LONG = re.compile(r"(\w+_cost(?:_per_token)?)_above_(\d+)k_tokens")
"""Key of the price above a number of thousands of tokens."""
HOURLY = "cache_creation_input_token_cost_above_1hr"
ELSEWHERE = frozenset({"model", "custom_llm_provider", "mode"})
INFO = frozenset({"mode", "base_model", "max_input_tokens", "id", "max_tokens", "max_output_tokens"})
CALLBACKS = frozenset({"success_callback", "failure_callback", "callbacks", "service_callback"})
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
    "litellm_credential_name": "write api_key: ${NAME} for the credential",
    "organization": "write it into headers, as openai-organization",
    "routing_strategy": "traffic is shared by weight here",
    "cache_control_injection_points": "cache_prompts sets cache marks by default here",
}


ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/responses")


def address(provider: str, url: str) -> str:
    """The base URL of the provider's API; LiteLLM takes the server or the endpoint and derives the path."""
    base = url.strip().partition("?")[0].rstrip("/")
    for end in ENDPOINTS:
        base = base.removesuffix(end).rstrip("/")
    if provider == "azure":
        base = re.sub(r"/openai/deployments/[^/]+$|/models$", "", base)
    if provider not in ("ollama", "huggingface"):
        return base
    return base if base.endswith("/v1") else f"{base}/v1"


def routed(provider: str, model: str) -> str:
    """The model without the segments that select an API or a region."""
    while True:
        word, slash, rest = model.partition("/")
        known = word in ROUTES.get(provider, ()) or (provider == "bedrock" and REGION.fullmatch(word))
        if not slash or not rest or not known:
            return model
        model = rest


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def base_model(name: str) -> str:
    """A model's own name: `azure/eu/gpt-4o` is a gpt-4o."""
    prefix, _, rest = name.partition("/")
    if prefix not in PREFIXES or not rest:
        return name
    return rest.rpartition("/")[2] if prefix == "azure" else rest


def substituted(value: Any) -> Any:
    """Replace `os.environ/X` with `${X}`, recursively."""
    if isinstance(value, str) and (
        named := re.fullmatch(rf"{ENVIRONMENT}([A-Za-z_][A-Za-z0-9_]*)\s*", value)
    ):
        return f"${{{named[1]}}}"
    if isinstance(value, dict):
        return {name: substituted(inner) for name, inner in value.items()}
    return [substituted(inner) for inner in value] if isinstance(value, list) else value


def number(value: Any) -> int | Decimal | None:
    """A number, also from text; `None` for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9.]{1,60}(?:[eE][-+]?[0-9]{1,3})?\s*", value):
        try:
            value = Decimal(value.strip())
        except ArithmeticError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
        return None
    return value


def flag(value: Any) -> bool | None:
    """A boolean, also from text; `None` for anything else."""
    if isinstance(value, str):
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
            value.lower()
        )
    return value if isinstance(value, bool) else None


def writable(value: Any) -> bool:
    """Whether it can be written: valid as JSON, and not read as a broken reference in proxy.yaml."""
    if isinstance(value, str):
        return not expand(value, lambda _: "").malformed
    if isinstance(value, dict):
        return all(writable(inner) for inner in value.values())
    if isinstance(value, list):
        return all(writable(inner) for inner in value)
    if isinstance(value, Decimal):
        return value.is_finite() and abs(value.adjusted()) < 300
    return not isinstance(value, int) or abs(value) < 2**63


def per_million(per_token: int | Decimal) -> Decimal:
    return round(Decimal(per_token) * 1_000_000, 9).normalize()
