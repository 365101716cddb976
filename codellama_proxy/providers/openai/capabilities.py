"""Which parameters OpenAI's reasoning models refuse, as data: to be corrected here and nowhere in code.

What a model refuses can depend on the request's reasoning effort. An unknown model refuses nothing: OpenAI itself
has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from codellama_proxy.core.snapshot import Deployment

NEW_MAX_TOKENS = re.compile(r"(?:^|[./])(o\d|gpt-[5-9])")
"""Families that refuse `max_tokens` and take `max_completion_tokens`."""

Samples = Literal["always", "never", "by_default", "when_told"]
"""When sampling parameters are taken: `by_default` unless an effort other than none is asked for, `when_told` only if
the effort none is."""

SAMPLING = frozenset({"temperature", "top_p", "logprobs", "top_logprobs"})
REFUSED = frozenset({"presence_penalty", "frequency_penalty", "logit_bias"})
"""By every reasoning model."""
NEUTRAL: Mapping[str, object] = {"temperature": 1, "top_p": 1}
"""Values that ask for nothing."""

# The first pattern found in the name decides: when the model samples, and what it refuses in any case.
FAMILIES: tuple[tuple[str, Samples, frozenset[str]], ...] = (
    (r"gpt-5(?:\.\d+)?-chat", "always", frozenset()),
    (r"o1(?![\w.])", "never", REFUSED),
    (r"o[2-9](?![\w.])", "never", REFUSED | {"stop"}),
    (r"gpt-5\.[1-4](?!\d)", "by_default", REFUSED | {"stop"}),
    (r"gpt-5\.\d", "when_told", REFUSED | {"stop"}),
    (r"gpt-6-(?:sol|luna)|gpt-6\.1-terra", "when_told", REFUSED | {"stop"}),
    (r"gpt-[5-9](?!\d)", "never", REFUSED | {"stop"}),
)


def renames_max_tokens(deployment: Deployment) -> bool:
    return NEW_MAX_TOKENS.search(_name(deployment)) is not None


def refused(deployment: Deployment, params: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that the model refuses beside the others."""
    for pattern, samples, names in FAMILIES:
        if re.search(rf"(?:^|[./])(?:{pattern})", _name(deployment), re.IGNORECASE):
            return names if _samples(samples, params.get("reasoning_effort")) else names | SAMPLING
    return frozenset()


def _samples(samples: Samples, effort: object) -> bool:
    if samples == "by_default":
        return effort in (None, "none")
    return samples == "always" or (samples == "when_told" and effort == "none")


def _name(deployment: Deployment) -> str:
    return deployment.base_model or deployment.model
