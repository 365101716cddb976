"""A request that an upstream refused for one parameter, and the same request without it. Pure.

Entries with `drop_params` get one more try for each parameter that a 400 or 422 names as unsupported, other entries
for each such parameter that is `soft`. Bounds on the answer's length are renamed and never dropped, because budgets
rely on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Attempt, Failure
from codellama_proxy.openai_format.parameters import MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import InferenceRequest

CODES = frozenset({"unsupported_value", "unsupported_parameter", "unknown_parameter", "extra_forbidden"})
"""Error codes and types with which providers name the parameter in a field of its own."""
_QUOTED = r"[`'\"]?([A-Za-z_][\w.]{0,63})[`'\"]?"
SENTENCES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bun(?:supported|known) (?:parameter|value|field):? {_QUOTED}",
        rf"\bunrecognized (?:request argument supplied|field):? {_QUOTED}",
        rf"\bproperty {_QUOTED} is unsupported",
        rf"\bdoes not support (?:the )?parameter:? {_QUOTED}",
        rf"\bargument not supported on this model: {_QUOTED}",
        rf"\bunknown name {_QUOTED}: cannot find field",
        rf"\band {_QUOTED} cannot both be specified",
        rf"{_QUOTED}: extra inputs are not permitted",
        r"[`'\"]([A-Za-z_]\w{0,63})[`'\"] is (?:not supported|deprecated)",
    )
)
"""How others say it."""
OURS: Mapping[str, str] = {
    "random_seed": "seed",
    "stop_sequences": "stop",
    "metadata.user_id": "user",
    "output_config.effort": "reasoning_effort",
}
"""Providers' names for parameters, where they differ."""
NEEDED = frozenset({"prompt", "input", "suffix"})
"""What a request is about."""


def named(code: str, kind: str, message: str, param: str | None) -> str:
    """The parameter that an error says is not supported; empty if it says something else."""
    if {code, kind} & CODES and param:
        return param
    found = (pattern.search(message[:1000]) for pattern in SENTENCES)
    return next((match[1].rstrip(".") for match in found if match), "")


def judged(failure: Failure, chat: InferenceRequest, deployment: Deployment) -> Failure:
    """The failure, its `unsupported` kept only if this request can go on without that parameter."""
    name = OURS.get(failure.unsupported, failure.unsupported)
    if name not in chat.params:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # some say presencePenalty
    may = deployment.drop_params or (name in chat.soft and name not in MAX_TOKENS_FIELDS)
    can = may and name in chat.params and name not in NEEDED
    return failure if not failure.unsupported else replace(failure, unsupported=name if can else "")


def left_out(attempts: Iterable[Attempt], deployment: Deployment) -> frozenset[str]:
    """The parameters that the deployment refused in these attempts."""
    failures = (a.failure for a in attempts if a.deployment == deployment.id)
    return frozenset(failure.unsupported for failure in failures if failure and failure.unsupported)


def repaired(chat: InferenceRequest, names: frozenset[str]) -> tuple[InferenceRequest, tuple[str, ...]]:
    """The request without these parameters, and the names of those that are gone."""
    if not names:
        return chat, ()
    params = {name: value for name, value in chat.params.items() if name not in names}
    for name, other in zip(MAX_TOKENS_FIELDS, reversed(MAX_TOKENS_FIELDS), strict=True):
        if name in names and name in chat.params and other not in names:
            params[other] = chat.params[name]
    gone = names - frozenset(MAX_TOKENS_FIELDS)
    return chat._replace(params=params), tuple(sorted(gone & chat.params.keys()))
