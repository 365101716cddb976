"""Keys of providers in proxy.yaml: the variables that hold them by custom, and texts that are no keys. Pure.

Messages name variables in capitals and never show what else was written: it may be a key after all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from codellama_proxy.config.yaml.document import Document, Path
from codellama_proxy.config.yaml.substitution import Lookup, UnsetError

CUSTOMARY: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "together": ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
    "cohere": ("CO_API_KEY", "COHERE_API_KEY"),
    "ai21": ("AI21_API_KEY",),
    "replicate": ("REPLICATE_API_TOKEN", "REPLICATE_API_KEY"),
    "huggingface": ("HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGING_FACE_HUB_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
    "openrouter": ("OPENROUTER_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "cerebras": ("CEREBRAS_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "nvidia": ("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
}
"""By provider, the most common first. Self-hosted servers have none."""
CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key", "api-key"})

_NAME = r"([A-Za-z_][A-Za-z0-9_]*)"
_REFERENCES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\$\(?{_NAME}\)?",
        rf"os\.environ(?:/|\[['\"]?|\.get\(['\"]?){_NAME}.*",
        rf"(?:env|ENV|environment|secret|process\.env)[:./]\s*{_NAME}",
        rf"\$?\{{\{{?\s*(?:(?:env|secrets|vars|process\.env)[.:])?\s*{_NAME}\s*\}}?\}}",
        rf"\$env:{_NAME}",
        rf"%{_NAME}%",
        r"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)",
    )
)
"""How other tools refer to a variable."""
_PLACEHOLDER = re.compile(
    r"(?:sk-|key-|gsk_|hf_)?(?:"
    r"your[-_ ]?.*|.*[-_ ]your[-_ ].*|<.*>|\[.*\]|\.{2,}|…|x{3,}(?:[-x]*)|\*{3,}|change[-_ ]?(?:me|this).*|"
    r"replace[-_ ]?(?:me|this|with).*|(?:insert|put|enter|paste|add)[-_ ].*|"
    r"(?:my[-_ ])?(?:api[-_ ]?key|api[-_ ]?token)(?:[-_ ]?here)?|.*[-_ ](?:key|token)[-_ ]here|"
    r"todo|tbd|fixme|placeholder.*|secret[-_ ]key|.*\.{3}"
    r")",
    re.IGNORECASE,
)
NO_KEYS = frozenset(
    {
        "none",
        "null",
        "no",
        "na",
        "n/a",
        "dummy",
        "empty",
        "fake",
        "local",
        "ollama",
        "lm-studio",
        "not-needed",
    }
    | {"no-key", "no-key-required", "not-required", "unused", "x", "-", "key", "sk-1234", "token-abc123"}
)
"""Placeholder keys for self-hosted servers without authentication."""


def wrong(key: str, variable: str) -> str | None:
    """Why this text cannot be a key; `None` if it may be one. `variable`: the customary one for the key."""
    for pattern in _REFERENCES:
        if found := pattern.fullmatch(key.strip()):
            name = found[1] if found[1].isupper() else "NAME"
            return f"this is the name of a variable, not a key; write ${{{name}}}"
    if _PLACEHOLDER.fullmatch(key.strip()):
        return f"this is a placeholder, not a key; write ${{{variable}}} and set the variable"
    return None


def referred(text: str) -> str | None:
    """The error of a text that refers to a variable in another tool's syntax."""
    found = re.search(r"\$([A-Z_][A-Z0-9_]*)|os\.environ/([A-Z_][A-Z0-9_]*)", text)
    return f"a variable is written ${{{found[1] or found[2]}}} here" if found else None


def variable_of(provider: str | None) -> str:
    """The customary variable for the provider's key."""
    return CUSTOMARY.get(provider or "", ("NAME",))[0]


def with_customary(document: Document, lookup: Lookup) -> Document:
    """The document with the customary variables' values for entries without `api_key`.

    If none is set, this is recorded in `missing`, unless the entry has its own address, which may need no key.
    """
    written = document.root.get("models") if isinstance(document.root, dict) else None
    for index, entry in enumerate(written if isinstance(written, list) else ()):
        if isinstance(entry, dict) and "api_key" not in entry and not _authorised(entry):
            document = _filled(document, ("models", index, "api_key"), entry, lookup)
    return document


def _authorised(entry: Mapping[str, Any]) -> bool:
    headers = entry.get("headers")
    return isinstance(headers, dict) and any(str(name).lower() in CREDENTIAL_HEADERS for name in headers)


def _filled(document: Document, path: Path, entry: dict[str, Any], lookup: Lookup) -> Document:
    names = CUSTOMARY.get(str(entry.get("provider")), ())
    for name in names:
        try:
            value = lookup(name)
        except UnsetError:
            continue
        entry["api_key"] = value
        return document._replace(
            substituted={**document.substituted, path: (value,)},
            inputs=(*document.inputs, (name, value)),
        )
    if not names or entry.get("base_url") is not None:
        return document
    return document._replace(missing={**document.missing, path: f"{names[0]} is not set"})
