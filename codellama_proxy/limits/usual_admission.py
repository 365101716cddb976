"""The admission of a request for which every scope has room: nearly every request. Pure.

It is what `admission.decide` would decide, in one pass and without a value for each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Protocol

from codellama_proxy.core.snapshot import Limits
from codellama_proxy.limits import budgets
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Decision
from codellama_proxy.limits.rate_headers import rate_left
from codellama_proxy.limits.rates import UNRATED, Levels, elapsed, level_after


class Balance(Protocol):
    """A scope's sums, in nano-USD, and its levels."""

    rates: Levels
    running: int | None
    spent: int
    held: int


def usual_decision(ask: AdmissionRequest, balances: Mapping[str, Balance]) -> Decision | None:
    """The decision; `None` if `decide` has to make it: a scope has too little room, or is a shadow.

    `balances`: by scope ID; those of the request's scopes are current.
    """
    if not ask.counts:
        return None
    now, tokens = ask.created_at, ask.prompt_estimate
    after: list[Levels] = []
    room = requests = tokens_left = inf
    requests_limit = tokens_limit = None
    for scope_id, limits in ask.scopes:
        balance = balances[scope_id]
        parallel, budget = limits.max_parallel_requests, limits.max_budget
        if limits.shadow or (parallel is not None and (balance.running or 0) >= parallel):
            return None
        if budget is not None:
            left = budget - balance.spent - balance.held if budget else -1
            room = min(room, left)
        levels = _taken(balance.rates, limits, tokens, now)
        if levels is None:
            return None
        rpm, tpm, _ = levels
        if rpm is not None and rpm < requests:
            requests, requests_limit = rpm, limits.rpm_limit
        if tpm is not None and tpm < tokens_left:
            tokens_left, tokens_limit = tpm, limits.tpm_limit
        after.append(levels)
    hold, sent = (0, None) if room == inf else _money(ask)
    if hold is None or hold > room:
        return None
    of_requests = None if requests_limit is None else rate_left(requests, requests_limit)
    of_tokens = None if tokens_limit is None else rate_left(tokens_left, tokens_limit)
    return Decision(Admission(sent, False, hold, of_requests, of_tokens), after)


def _taken(rates: Levels, limits: Limits, tokens: int, now: float) -> Levels | None:
    """`rates.refill`, then `rates.take`; `None` if a bucket may have too little for that."""
    most_requests, most_tokens = limits.rpm_limit, limits.tpm_limit
    if most_requests is None and most_tokens is None:
        return UNRATED
    rpm, tpm, rated_at = rates
    minutes, at = elapsed(rated_at, now)
    rpm = None if most_requests is None else level_after(rpm, most_requests, minutes) - 1
    tpm = None if most_tokens is None else level_after(tpm, most_tokens, minutes) - tokens
    if (rpm is not None and rpm < 0) or (tpm is not None and (tpm < 0 or most_tokens == 0)):
        return None
    return rpm, tpm, at


def _money(ask: AdmissionRequest) -> tuple[int | None, int | None]:
    """The hold in nano-USD, `None` for the general decision, and the `max_tokens` to send, if not the client's."""
    if not ask.prices:
        return 0, None
    if not any(ask.prices):
        return None, None
    own = ask.max_tokens
    wanted = ask.default_max_tokens if own is None else own
    return _most_nanos(ask, wanted), wanted if own is None and wanted > 0 else None


def _most_nanos(ask: AdmissionRequest, wanted: int) -> int:
    """`ask.bound.nanos(wanted)`."""
    prices, bounds, unbounded, answers = ask.prices, ask.bounds, ask.unbounded_tokens, ask.n
    price = prices[0]
    if price is None or len(prices) > 1 or not bounds or not unbounded or answers < 1:
        return ask.bound.nanos(wanted)
    units = budgets.input_units(price, bounds[0], unbounded[0]) + ask.calls_units
    return budgets.nanos_of(units + wanted * answers * price.output)
