"""Parameters that OpenAI's reasoning models refuse, as data; corrections belong here.

They can depend on the request's reasoning effort. Nothing is refused for an unknown model; OpenAI decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from codellama_proxy.core.snapshot import Deployment

NEW_MAX_TOKENS = re.compile(r"(?:^|[./])(o\d|gpt-[5-9])")
"""Families that refuse `max_tokens` and accept `max_completion_tokens`."""

Samples = Literal["always", "never", "by_default", "when_told"]
"""When sampling parameters are accepted: `by_default`: unless an effort other than none is requested; `when_told`: only
if the effort none is requested."""

SAMPLING = frozenset({"temperature", "top_p", "logprobs", "top_logprobs"})
REFUSED = frozenset({"presence_penalty", "frequency_penalty", "logit_bias"})
"""Refused by every reasoning model."""
NEUTRAL: Mapping[str, object] = {"temperature": 1, "top_p": 1}
"""Values without effect, which are dropped."""

# The first pattern found in the name decides: when the model samples, and what it refuses in any case.
FAMILIES: tuple[tuple[str, Samples, frozenset[str]], ...] = (
    (r"gpt-5(?:\.\d+)?-chat", "always", frozenset()),
    (r"gpt-[5-9][\w.-]*-(?:codex|pro)(?![a-z])", "never", REFUSED | {"stop"}),
    (r"o1(?![\w.])", "never", REFUSED),
    (r"o[2-9](?![\w.])", "never", REFUSED | {"stop"}),
    (r"gpt-5\.[1-4](?!\d)", "by_default", REFUSED | {"stop"}),
    (r"gpt-5\.\d", "when_told", REFUSED | {"stop"}),
    (r"gpt-6-(?:sol|luna)|gpt-6\.1-terra", "when_told", REFUSED | {"stop"}),
    (r"gpt-[5-9](?!\d)", "never", REFUSED | {"stop"}),
)


ONLY_RESPONSES = re.compile(
    r"(?:^|[./])(?:gpt-[5-9][\w.-]*-(?:codex|pro)(?![a-z])|o\d-pro(?![a-z])|codex-mini|o\d[\w-]*-deep-research"
    r"|computer-use-preview)",
    re.IGNORECASE,
)
"""Models that exist only at `/responses` (platform.openai.com/docs/models)."""


def has_only_responses(deployment: Deployment) -> bool:
    """Whether chats with the model need the Responses API."""
    return _is_only_responses(_name(deployment))


@cache
def _is_only_responses(name: str) -> bool:
    return ONLY_RESPONSES.search(name) is not None


def renames_max_tokens(deployment: Deployment) -> bool:
    return _has_new_max_tokens(_name(deployment))


@cache
def _has_new_max_tokens(name: str) -> bool:
    return NEW_MAX_TOKENS.search(name) is not None


def refused(deployment: Deployment, params: Mapping[str, Any]) -> frozenset[str]:
    """The parameters of a request that the model refuses."""
    family = _family(_name(deployment))
    if family is None:
        return frozenset()
    samples, names = family
    return names if _samples(samples, params.get("reasoning_effort")) else names | SAMPLING


def may_refuse(deployment: Deployment) -> frozenset[str]:
    """The parameters that the model refuses in some requests."""
    family = _family(_name(deployment))
    return frozenset() if family is None else family[1] | SAMPLING


@cache
def _family(name: str) -> tuple[Samples, frozenset[str]] | None:
    for pattern, samples, names in FAMILIES:
        if re.search(rf"(?:^|[./])(?:{pattern})", name, re.IGNORECASE):
            return samples, names
    return None


def _samples(samples: Samples, effort: object) -> bool:
    if samples == "by_default":
        return effort in (None, "none")
    return samples == "always" or (samples == "when_told" and effort == "none")


def _name(deployment: Deployment) -> str:
    return deployment.base_model or deployment.model
