"""A request that an upstream refused for one parameter, and the same request without it. Pure.

Entries with `drop_params` get one more try for each parameter that a 400 or 422 names as unsupported, other entries
for each such parameter that is `soft`. Bounds on the answer's length are renamed and never dropped, because budgets
rely on them. One above the limit that the upstream states is reduced to it, once, for clients that send the same bound
to every model.

A server that lacks the endpoint of the client's dialect is asked for a chat, once.

Reasoning in the history that a provider refuses, because it was made for another prompt or account, is left out once,
for every entry: clients repeat it in every later turn, so the conversation could not continue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Attempt, Failure
from codellama_proxy.failures.stated_limits import stated_max_tokens
from codellama_proxy.native.forms import edited, form_of
from codellama_proxy.openai_format.parameters import MAX_TOKENS_FIELDS
from codellama_proxy.openai_format.request import InferenceRequest, Message

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
BOUNDS_NATIVE = ("max_tokens", "max_output_tokens")
NEEDED = frozenset({"prompt", "input", "suffix"})
"""What a request is about."""
NEEDED_NATIVE = NEEDED | {"model", "messages", "system", "instructions", "store", "stream", *BOUNDS_NATIVE}
"""The same of requests in their own dialect, and what limits or guards them."""
REASONING = "thinking_blocks"
"""Stands for all reasoning in the history, as if it were a parameter."""
ENDPOINT = "endpoint"
"""Stands for the endpoint of the client's own dialect: a server that lacks it is asked for a chat instead."""
BOUND = "max_tokens<="
"""Before a number of tokens: stands for a bound on the answer that is above it, as if it were a parameter."""
ENCRYPTED_CODE = "invalid_encrypted_content"
_ENCRYPTED = re.compile(
    r"encrypted content\b.{0,300}could not be (?:verified|decrypted)", re.IGNORECASE | re.DOTALL
)
"""OpenAI's words for reasoning of another account."""
_SIGNATURE = re.compile(r"signature.{0,100}thinking|thinking.{0,100}signature", re.IGNORECASE | re.DOTALL)
"""Anthropic's words for a thinking block that was signed for another conversation or account."""


def refused_reasoning(code: str, message: str) -> str:
    """The reason, for logs, if an error refuses reasoning in the history; else empty."""
    if code == ENCRYPTED_CODE or _ENCRYPTED.search(message[:1000]):
        return "encrypted_content"
    return "thinking_signature" if _SIGNATURE.search(message[:1000]) else ""


def named(code: str, kind: str, message: str, param: str | None) -> str:
    """The parameter that an error says is not supported; empty if it says something else."""
    if refused_reasoning(code, message):
        return REASONING
    if (most := stated_max_tokens(message)) is not None:
        return f"{BOUND}{most}"
    if {code, kind} & CODES and param:
        return param
    found = (pattern.search(message[:1000]) for pattern in SENTENCES)
    return next((match[1].rstrip(".") for match in found if match), "")


def judged(failure: Failure, chat: InferenceRequest, deployment: Deployment) -> Failure:
    """The failure, its `unsupported` kept only if this request can go on without that parameter."""
    if not failure.unsupported:
        return failure
    return replace(failure, unsupported=_omissible(failure.unsupported, chat, deployment))


def _omissible(named: str, chat: InferenceRequest, deployment: Deployment) -> str:
    """Our name for what the upstream names, if it can be left out; else empty."""
    if named == ENDPOINT:
        return named if chat.native is not None else ""
    if named == REASONING:
        return named if _has_reasoning(chat) else ""
    if named.startswith(BOUND):
        is_ceiling = chat.max_tokens_field in chat.soft
        return named if is_ceiling and (chat.max_tokens or 0) > _tokens(named) else ""
    if chat.native is not None:
        can = deployment.drop_params and named in chat.native.body and named not in NEEDED_NATIVE
        return named if can else ""
    name = OURS.get(named, named)
    if name not in chat.params:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # some say presencePenalty
    may = deployment.drop_params or (name in chat.soft and name not in MAX_TOKENS_FIELDS)
    return name if may and name in chat.params and name not in NEEDED else ""


def left_out(attempts: Iterable[Attempt], deployment: Deployment) -> frozenset[str]:
    """The parameters that the deployment refused in these attempts."""
    failures = (a.failure for a in attempts if a.deployment == deployment.id)
    return frozenset(failure.unsupported for failure in failures if failure and failure.unsupported)


def repaired(chat: InferenceRequest, names: frozenset[str]) -> tuple[InferenceRequest, tuple[str, ...]]:
    """The request without these parameters, and the names of those that are gone."""
    if not names:
        return chat, ()
    if ENDPOINT in names:
        chat, names = chat._replace(native=None), names - {ENDPOINT}
    bounds = {name for name in names if name.startswith(BOUND)}
    if bounds:
        chat, names = _bounded(chat, min(map(_tokens, bounds))), names - bounds
    left = sorted(names & {REASONING})
    if left:
        chat = _without_reasoning(chat)
    if chat.native is not None:
        left += sorted(names & chat.native.body.keys())
        return edited(chat, lambda body: {k: v for k, v in body.items() if k not in names}), tuple(left)
    params = {name: value for name, value in chat.params.items() if name not in names}
    for name, other in zip(MAX_TOKENS_FIELDS, reversed(MAX_TOKENS_FIELDS), strict=True):
        if name in names and name in chat.params and other not in names:
            params[other] = chat.params[name]
    gone = names - frozenset(MAX_TOKENS_FIELDS)
    return chat._replace(params=params), tuple(left + sorted(gone & chat.params.keys()))


def _tokens(bound: str) -> int:
    return int(bound.removeprefix(BOUND))


def _bounded(chat: InferenceRequest, most: int) -> InferenceRequest:
    """The request for at most so many tokens."""
    if chat.max_tokens is None or chat.max_tokens <= most:
        return chat
    return chat._replace(params={**chat.params, chat.max_tokens_field: most})


def _has_reasoning(chat: InferenceRequest) -> bool:
    if chat.native is not None:
        return form_of(chat).has_reasoning(chat.native.body)
    return any(message.get("thinking_blocks") for message in chat.messages)


def _without_reasoning(chat: InferenceRequest) -> InferenceRequest:
    if chat.native is not None:
        chat = edited(chat, form_of(chat).without_reasoning)
    return chat._replace(messages=[_without_thinking(message) for message in chat.messages])


def _without_thinking(message: Message) -> Message:
    if "thinking_blocks" not in message:
        return message
    return {name: value for name, value in message.items() if name != "thinking_blocks"}
