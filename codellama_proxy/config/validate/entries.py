"""Checks of one well-formed entry of `models:`: its address, its key, its parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_proxy.config.model_schema import Entry
from codellama_proxy.config.validate import credentials
from codellama_proxy.config.validate.finding import Entries, Finding
from codellama_proxy.config.yaml.document import Path
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.openai_format.fields import check_fields, check_items
from codellama_proxy.openai_format.parameters import (
    CHAT_PARAMETERS,
    COMPLETION_PARAMETERS,
    EMBEDDING_PARAMETERS,
    MAX_TOKENS_FIELDS,
    Parameter,
    Parameters,
)

NEEDS_NO_KEY = frozenset({"ollama", "vllm", "lmstudio", "llamacpp", "openai_compatible", "mock"})
ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/responses", "/models")
"""Paths that the proxy appends to an address."""
NOT_THEIRS: Mapping[str, str] = {
    **dict.fromkeys(
        ("model", "messages", "prompt", "input", "stream", "stream_options", "cache"),
        "each request sets it itself",
    ),
    "extra_body": "write its keys into params themselves",
    "extra_headers": "write headers, beside params",
    **dict.fromkeys(
        ("api_key", "api_base", "base_url", "api_version", "organization", "timeout", "fallbacks"),
        "it belongs to the entry, beside params",
    ),
    **dict.fromkeys(("custom_llm_provider", "guardrails", "extra_query"), "it is not a request parameter"),
}
"""Parameters that an entry cannot set."""
EXTRAS = frozenset(
    {
        *(
            "top_k",
            "min_p",
            "top_a",
            "typical_p",
            "tfs",
            "repetition_penalty",
            "repeat_penalty",
            "random_seed",
        ),
        *(
            "stop_sequences",
            "stop_token_ids",
            "min_tokens",
            "max_new_tokens",
            "ignore_eos",
            "best_of",
            "echo",
        ),
        *("suffix", "thinking", "betas", "cache_control", "container", "reasoning", "include_reasoning"),
        *("reasoning_format", "enable_thinking", "thinking_budget", "chat_template", "chat_template_kwargs"),
        *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar"),
        *("provider", "transforms", "plugins", "usage", "prompt_truncate_len", "safe_prompt", "prompt_mode"),
        *("context_length_exceeded_behavior", "safety_model", "safety_mode", "documents", "citation_options"),
        *("strict_tools", "priority", "search_parameters", "search_domain_filter", "search_recency_filter"),
        *("return_images", "return_related_questions", "disable_search", "keep_alive", "options", "num_ctx"),
        *(
            "format",
            "think",
            "extra_content",
            "google",
            "k",
            "p",
            "dimensions",
            "encoding_format",
            "truncate",
        ),
        *(
            "input_type",
            "output_dimension",
            "task",
            "speed",
            "inference_geo",
            "output_config",
            "system_prompt",
        ),
        *("mirostat", "n_predict", "cache_prompt", "logprobs", "top_logprobs", "seed", "verbosity"),
        *("models", "route", "preset", "data_sources", "user_id", "session_id"),
        *("disable_reasoning", "clear_thinking", "exclude_domains", "include_domains", "compound_custom"),
    }
)
"""Parameters of single providers: sent as they are."""
MIN_TYPO_SIMILARITY = 0.85
"""An unknown parameter at least this similar to a known one is reported as a typo."""


def findings(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    provider = None if (*path, "provider") in entries.unknown else entry.provider
    yield from _key(entry, path, provider, entries)
    yield from _address(entry, (*path, "base_url"), entries)
    yield from _headers(entry, (*path, "headers"), entries)
    yield from _params(entry, (*path, "params"), entries)


def of_key(key: str, path: Path, provider: str | None, variable: str) -> Iterator[Finding]:
    """A key written in the file, which should come from the variable."""
    if (why := credentials.wrong(key, variable)) is not None:
        yield Finding(path, why)
    elif provider not in NEEDS_NO_KEY or key.lower() not in credentials.NO_KEYS:
        message = (
            f"anyone who can read the file can read this key; write ${{{variable}}} and set the variable"
        )
        yield Finding(path, message, "warning")


def _key(entry: Entry, path: Path, provider: str | None, entries: Entries) -> Iterator[Finding]:
    here = (*path, "api_key")
    if entry.api_key is not None:
        if here not in entries.hidden:
            yield from of_key(entry.api_key.reveal(), here, provider, credentials.variable_of(provider))
        return
    keyless = provider is None or provider in NEEDS_NO_KEY or entry.base_url is not None
    authorised = credentials.CREDENTIAL_HEADERS & entry.headers.keys()
    if not keyless and not authorised and here not in entries.unknown:
        yield Finding(path, f"no api_key; {provider} will refuse every request", "warning")


def _address(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    url = entry.base_url
    if url is None:
        return
    if path not in entries.hidden and (why := credentials.referred(url)) is not None:
        yield Finding(path, why)
    found = next((end for end in ENDPOINTS if url.lower().endswith(end)), None)
    if found is not None:
        right = "" if path in entries.hidden else f": {url[: -len(found)]}"
        yield Finding(path, f"the proxy itself adds {found}; write the address without it{right}")


def _headers(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    for name, value in entry.headers.items():
        hidden = any(
            known[: len(path)] == path and str(known[-1]).lower() == name for known in entries.hidden
        )
        if not hidden and (why := credentials.referred(value)) is not None:
            yield Finding((*path, name), why)


def _params(entry: Entry, path: Path, entries: Entries) -> Iterator[Finding]:
    if path in entries.unknown:
        return
    mode = None if (*path[:-1], "mode") in entries.unknown else entry.mode
    rules = {"completion": COMPLETION_PARAMETERS, "embedding": EMBEDDING_PARAMETERS}.get(
        mode or "", CHAT_PARAMETERS
    )
    for name, value in entry.params.items():
        here = (*path, name)
        if here in entries.unknown:
            continue
        if name in NOT_THEIRS:
            yield Finding(here, f"{name} cannot be set here: {NOT_THEIRS[name]}")
        elif name in rules or name in CHAT_PARAMETERS:
            yield from _value(name, value, here, rules if name in rules else CHAT_PARAMETERS)
        elif name not in EXTRAS:
            yield _unknown(name, here, rules)
    if MAX_TOKENS_FIELDS[0] in entry.params and MAX_TOKENS_FIELDS[1] in entry.params:
        yield Finding(
            (*path, MAX_TOKENS_FIELDS[0]), "give either max_tokens or max_completion_tokens, not both"
        )


def _value(name: str, value: Any, path: Path, rules: Parameters) -> Iterator[Finding]:
    try:
        checked = check_fields({name: value}, rules)
        check_items(checked)
    except ProxyError as error:
        yield Finding(path, error.message.removeprefix(f"'{name}' ").rstrip("."))


def _unknown(name: str, path: Path, rules: Mapping[str, Parameter]) -> Finding:
    known = [*rules, *EXTRAS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=MIN_TYPO_SIMILARITY)
    if near:
        return Finding(path, f'unknown parameter; did you mean "{near[0]}"?')
    return Finding(path, "unknown parameter; it is sent to the provider unchanged", "warning")
