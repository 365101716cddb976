"""Names from other gateways, and the equivalents here: data and lookup."""

from __future__ import annotations

from collections.abc import Mapping

from codellama_proxy.openai_format.parameters import CHAT_PARAMETERS

IMPORT = "this is a LiteLLM setting; `codellama-proxy import litellm FILE` converts a LiteLLM configuration"
ELSEWHERE = "set it in the environment: "

PROVIDERS: Mapping[str, str] = {
    **dict.fromkeys(
        ("google", "google_ai", "google-ai", "googleai", "palm", "vertex", "vertex_ai", "vertexai"), "gemini"
    ),
    **dict.fromkeys(("claude", "anthropic_messages", "claude-code"), "anthropic"),
    **dict.fromkeys(("gpt", "chatgpt", "open_ai", "open-ai", "codex", "text-completion-openai"), "openai"),
    **dict.fromkeys(("azure_openai", "azure-openai", "azure_ai", "azureopenai", "microsoft"), "azure"),
    **dict.fromkeys(("together_ai", "together-ai", "togetherai", "codellama"), "together"),
    **dict.fromkeys(("hf", "hugging_face", "hugging-face", "tgi"), "huggingface"),
    **dict.fromkeys(("aws", "amazon", "amazon-bedrock", "bedrock_converse", "aws_bedrock"), "bedrock"),
    **dict.fromkeys(("grok", "x.ai", "x-ai", "x_ai"), "xai"),
    **dict.fromkeys(("fireworks_ai", "fireworks-ai", "fireworksai"), "fireworks"),
    **dict.fromkeys(("nvidia_nim", "nvidia-nim", "nim"), "nvidia"),
    **dict.fromkeys(("lm_studio", "lm-studio", "lm studio"), "lmstudio"),
    **dict.fromkeys(("llama.cpp", "llama_cpp", "llama-cpp", "llama-server", "llamafile"), "llamacpp"),
    **dict.fromkeys(("hosted_vllm", "sglang"), "vllm"),
    **dict.fromkeys(("mistralai", "mistral_ai", "codestral"), "mistral"),
    **dict.fromkeys(("perplexityai", "pplx"), "perplexity"),
    **dict.fromkeys(("cohere_chat", "command"), "cohere"),
    **dict.fromkeys(("ai21_chat", "jamba"), "ai21"),
    **dict.fromkeys(("ollama_chat",), "ollama"),
    **dict.fromkeys(("fake", "test", "dummy", "echo"), "mock"),
    **dict.fromkeys(
        (
            *("custom", "custom_openai", "openai-compatible", "openai compatible", "openai_like", "generic"),
            *("openai_compat", "other", "local", "localai", "litellm", "litellm_proxy", "moonshot", "kimi"),
            *("dashscope", "qwen", "zai", "zhipu", "minimax", "sambanova", "deepinfra", "novita"),
            *("hyperbolic", "github", "github_models", "databricks", "cloudflare", "llama_api", "vercel"),
        ),
        "openai_compatible",
    ),
}
"""Other names of providers."""

_ENTRY: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "api_base",
            "base",
            "url",
            "api_url",
            "endpoint",
            "host",
            "apiBase",
            "baseUrl",
            "baseURL",
            "openai_api_base",
        ),
        "write base_url",
    ),
    **dict.fromkeys(
        ("key", "apikey", "apiKey", "api-key", "token", "secret", "openai_api_key"), "write api_key"
    ),
    **dict.fromkeys(
        ("model_name", "id", "alias", "title"), "write name (the public name) and model (the upstream's)"
    ),
    **dict.fromkeys(("type", "vendor", "kind", "custom_llm_provider", "platform"), "write provider"),
    "litellm_params": "write its keys into the entry itself: provider, model, base_url, api_key, params",
    "model_info": "write its keys into the entry itself: mode, base_model, price, context_window",
    **dict.fromkeys(
        ("timeout", "request_timeout"), "write timeouts: {answer: ...}, or {first_token, idle} for streams"
    ),
    "stream_timeout": "write timeouts: {first_token: ...}",
    **dict.fromkeys(
        (
            "rpm",
            "tpm",
            "rpm_limit",
            "tpm_limit",
            "max_parallel_requests",
            "rate_limit",
            "max_budget",
            "budget",
        ),
        "an entry has no limits of its own; limits are for keys and projects, under limits:",
    ),
    **dict.fromkeys(
        ("input_cost_per_token", "output_cost_per_token", "cost", "pricing", "prices"),
        "write price: {input: ..., output: ...}, USD per million tokens",
    ),
    **dict.fromkeys(("organization", "organisation", "org"), "write headers: {openai-organization: ...}"),
    **dict.fromkeys(
        ("max_retries", "num_retries", "retries"), "write routing: {retries: ...}, for all models"
    ),
    **dict.fromkeys(("enabled", "disabled"), "put a # before the lines of an entry that is not to be used"),
    **dict.fromkeys(("system", "system_message", "prompt", "instructions"), "write system_prompt"),
    **dict.fromkeys(("priority", "order"), "the order of the entries is the order of fallback"),
    **dict.fromkeys(("region", "aws_region_name", "aws_region"), "the region is in base_url"),
    **dict.fromkeys(("extra_headers", "default_headers"), "write headers"),
    **dict.fromkeys(
        ("extra_body", "default_params", "parameters", "options", "model_kwargs"), "write params"
    ),
    **dict.fromkeys(("context_length", "max_input_tokens", "context", "num_ctx"), "write context_window"),
    "max_tokens": "write params: {max_tokens: ...} for a default, or max_output_tokens for budget holds",
    **dict.fromkeys(("version",), "write api_version (for azure)"),
}
_FILE: Mapping[str, str] = {
    "model_list": f"write models; {IMPORT}",
    **dict.fromkeys(("litellm_settings", "general_settings", "router_settings"), IMPORT),
    **dict.fromkeys(("environment_variables", "env"), "set variables in the environment or in .env"),
    **dict.fromkeys(("providers", "deployments", "model", "endpoints", "targets", "routes"), "write models"),
    "master_key": f"{ELSEWHERE}PROXY_MASTER_KEY",
    **dict.fromkeys(("database", "database_url"), f"{ELSEWHERE}PROXY_DATABASE"),
    "port": f"{ELSEWHERE}PROXY_PORT",
    **dict.fromkeys(("host", "listen", "bind"), f"{ELSEWHERE}PROXY_HOST"),
    "log_level": f"{ELSEWHERE}PROXY_LOG_LEVEL",
    "log_format": f"{ELSEWHERE}PROXY_LOG_FORMAT",
    **dict.fromkeys(("alias", "model_alias", "model_aliases", "model_group_alias"), "write aliases"),
    "fallbacks": "write fallbacks into an entry of models",
    "drop_params": "write drop_params into an entry of models",
    **dict.fromkeys(
        ("system_prompt", "prompt", "guardrails", "system"), "write guardrail: {system_prompt: ...}"
    ),
    **dict.fromkeys(("rate_limits", "rate_limit", "budgets", "budget", "quotas"), "write limits"),
    **dict.fromkeys(
        ("keys", "api_keys", "virtual_keys", "users", "api_key"),
        "keys are made by `codellama-proxy keys create PROJECT`; a provider's key is api_key in an entry of models",
    ),
    **dict.fromkeys(("retry", "retries", "num_retries", "max_retries"), "write routing: {retries: ...}"),
    **dict.fromkeys(("timeout", "request_timeout"), "write timeouts"),
    **dict.fromkeys(("caching", "redis"), "write cache"),
    **dict.fromkeys(("logging", "logs", "callbacks", "observability"), "write tracking"),
    "promptlayer": "write tracking: {promptlayer: ...}",
    **dict.fromkeys(("teams", "team", "tenants"), "write projects"),
    **dict.fromkeys(("cors", "cors_origins", "max_body"), "write server"),
    "prometheus": "write metrics",
}
_GUARDRAIL = dict.fromkeys(
    ("prompt", "system", "text", "message", "system_message", "instructions"), "write system_prompt"
)
_LIMITS: Mapping[str, str] = {
    **dict.fromkeys(("rpm", "requests_per_minute", "requests"), "write rpm_limit"),
    **dict.fromkeys(("tpm", "tokens_per_minute", "tokens"), "write tpm_limit"),
    **dict.fromkeys(
        ("parallel", "concurrency", "max_parallel", "concurrent_requests"), "write max_parallel_requests"
    ),
    **dict.fromkeys(("budget", "max_spend", "spend", "usd"), "write max_budget, in USD"),
    **dict.fromkeys(("period", "window", "reset", "duration", "budget_reset"), "write budget_duration"),
}
_ROUTING: Mapping[str, str] = {
    **dict.fromkeys(("num_retries", "max_retries"), "write retries"),
    **dict.fromkeys(
        ("strategy", "routing_strategy"), "traffic is shared by the weight of each entry of models"
    ),
    **dict.fromkeys(("timeout", "request_timeout"), "write deadline"),
    "allowed_fails": "write cooldown: {failures: ...}",
    "cooldown_time": "write cooldown: {time: ...}",
    "fallbacks": "write fallbacks into an entry of models",
}
_CACHE: Mapping[str, str] = {
    **dict.fromkeys(
        ("type", "redis", "host", "port", "backend"),
        "answers are kept in memory and in the database; leave it out",
    ),
    **dict.fromkeys(("size", "max_size", "capacity"), "write max_entries"),
    **dict.fromkeys(("expiry", "expires", "max_age", "lifetime"), "write ttl"),
}
_PRICE: Mapping[str, str] = {
    **dict.fromkeys(("prompt", "input_cost_per_token", "in"), "write input, USD per million tokens"),
    **dict.fromkeys(("completion", "output_cost_per_token", "out"), "write output, USD per million tokens"),
    **dict.fromkeys(("cached", "cache_read", "cache_read_input_token_cost"), "write cached_input"),
}
_TIMEOUTS: Mapping[str, str] = {
    **dict.fromkeys(("read", "total", "request", "timeout"), "write answer"),
    **dict.fromkeys(("stream", "first", "ttft"), "write first_token"),
}
_SERVER: Mapping[str, str] = {
    "port": f"{ELSEWHERE}PROXY_PORT",
    "host": f"{ELSEWHERE}PROXY_HOST",
    "cors": "write cors_origins",
    "workers": "one process serves all; it is not set",
}
_PROMPTLAYER = dict.fromkeys(("key", "apikey", "token"), "write api_key")

KEYS: Mapping[str, Mapping[str, str]] = {
    "Entry": _ENTRY,
    "File": _FILE,
    "Guardrail": _GUARDRAIL,
    "Limits": _LIMITS,
    "Routing": _ROUTING,
    "Cache": _CACHE,
    "Price": _PRICE,
    "Timeouts": _TIMEOUTS,
    "OwnTimeouts": _TIMEOUTS,
    "Server": _SERVER,
    "PromptLayer": _PROMPTLAYER,
}
"""By section: keys that do not exist, and what to use instead."""


def of_key(section: str, key: str) -> str | None:
    """What to write instead of this key; `None` if it is no common guess. `section`: a class of the schema."""
    known = KEYS.get(section, {})
    found = known.get(key) or known.get(key.lower().replace("-", "_"))
    if found is None and section == "Entry" and key in CHAT_PARAMETERS:
        return f"write params: {{{key}: ...}}"
    return found


def of_provider(word: str) -> str | None:
    """The provider with this alternative name."""
    return PROVIDERS.get(word.strip().lower())
