"""The rows of requests, as values: what an admission, a further attempt and a settlement write. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from codellama_proxy.core.types import Usage
from codellama_proxy.limits import rates as limits
from codellama_proxy.limits.admission import AdmissionRequest, Extension, Settlement, attempts_json
from codellama_proxy.pricing.cost import input_cost

MAX_NAME_CHARACTERS = 256
"""Maximum stored length of a model name from a client."""
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
"""Of the databases."""
_NO_USAGE: tuple[int | None, ...] = (None,) * 5


def estimated(end: Settlement, tokens: int, nanos: int | None) -> Settlement:
    """What is booked in place of a settlement that cannot be stored. `tokens`: of the prompt; `nanos`: its cost."""
    return Settlement(
        end.request_id,
        end.status,
        end.http_status,
        model=end.model,
        deployment=end.deployment,
        usage=Usage(tokens),
        basis="estimated",
        cost_nanos=nanos,
    )


def is_storable(values: Iterable[object]) -> bool:
    """Whether the databases have integers as large as those among the values."""
    return not [value for value in values if type(value) is int and not MIN_INTEGER <= value <= MAX_INTEGER]


def is_bookable(end: Settlement) -> bool:
    """Whether the databases have integers as large as its cost and its usage."""
    usage, _, cost, saved = end[7:11]
    joined = (cost or 0) | (saved or 0)  # not below any of them if none is negative, and of the same size
    if usage is not None:
        prompt, completion, cached, written, reasoning = usage[:5]
        joined |= prompt | completion | cached | written | reasoning
    return 0 <= joined <= MAX_INTEGER or is_storable((cost, saved, *(usage or ())))


class HeldRow(NamedTuple):
    """The columns of an admitted request."""

    request_id: str
    created_at: float
    project: str
    key_id: str | None
    user: str | None
    endpoint: str
    model_requested: str | None
    stream: int
    """0 or 1."""
    config: str
    hold_nanos: int
    estimate_nanos: int | None
    estimate_tokens: int
    model: str | None
    deployment: str | None
    session: str | None
    agent: str | None


class ExtendedRow(NamedTuple):
    """The columns that a further attempt changes."""

    added_nanos: int
    """To be added to `hold_nanos`."""
    estimate_nanos: int | None
    attempts: str
    model: str
    deployment: str


class SettledRow(NamedTuple):
    """The columns that a settlement sets."""

    status: str
    http_status: int | None
    attempts: str
    model: str | None
    deployment: str | None
    upstream_model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_nanos: int | None
    saved_nanos: int | None
    basis: str | None
    cache: str | None
    first_ms: float | None
    total_ms: float | None


def held_row(ask: AdmissionRequest, hold_nanos: int) -> HeldRow:
    """Of an admitted request."""
    request_id, created_at, project, key, user, endpoint, model, stream, config = ask[:9]
    price = ask.prices[0] if ask.prices else None
    first, tokens = ask.deployment, ask.prompt_estimate
    return HeldRow(
        request_id,
        created_at,
        project,
        None if key is None else key.key_id,
        None if user is None else limits.user_name(user),
        endpoint,
        model and model[:MAX_NAME_CHARACTERS],
        int(stream),
        config,
        hold_nanos,
        None if price is None else input_cost(tokens, price),
        tokens,
        first.name if first else None,
        first.id if first else None,
        ask.session,
        ask.agent,
    )


def extended_row(more: Extension, nanos: int, estimate_tokens: int) -> ExtendedRow:
    """Of a held request. `nanos`: held in addition; `estimate_tokens`: of the request's prompt."""
    estimate = None if more.price is None else input_cost(estimate_tokens, more.price)
    attempts = attempts_json([attempt.to_json() for attempt in more.attempts])
    return ExtendedRow(nanos, estimate, attempts, more.deployment.name, more.deployment.id)


def settled_row(end: Settlement) -> SettledRow:
    """Of a request that ended."""
    usage, basis, cost, saved, cache, first_ms, total_ms = end[7:14]
    prompt, completion, cached, written, reasoning = _NO_USAGE if usage is None else usage[:5]
    return SettledRow(
        *end[1:7],
        prompt,
        completion,
        cached,
        written,
        reasoning,
        cost,
        saved,
        basis,
        cache,
        first_ms,
        total_ms,
    )


def used_tokens(end: Settlement, estimate: int) -> int:
    """Tokens that count for rate limits. A cached answer counts with the estimate of its prompt."""
    if end.basis == "cached":
        return estimate
    return end.usage.prompt_tokens + end.usage.completion_tokens if end.usage else 0
