"""What is left of the rates, as OpenAI's response headers `x-ratelimit-*`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from codellama_proxy.core.header_lines import HeaderLines
from codellama_proxy.core.snapshot import Limits
from codellama_proxy.limits.rates import MINUTE, Rate, Rates, reset_text


def rates_left(scopes: Sequence[Limits], levels: Sequence[Rates]) -> tuple[Rate | None, Rate | None]:
    """Requests and tokens left in the tightest scope of each. Shadows are excluded: they refuse nothing."""
    requests = tokens = math.inf
    of_requests = of_tokens = -1
    for limits, (rpm, tpm, _) in zip(scopes, levels, strict=True):
        if limits.shadow:
            continue
        if rpm is not None and limits.rpm_limit is not None and rpm < requests:
            requests, of_requests = rpm, limits.rpm_limit
        if tpm is not None and limits.tpm_limit is not None and tpm < tokens:
            tokens, of_tokens = tpm, limits.tpm_limit
    return (
        None if of_requests < 0 else rate_left(requests, of_requests),
        None if of_tokens < 0 else rate_left(tokens, of_tokens),
    )


def rate_left(level: float, limit: int) -> Rate:
    """What a bucket has left."""
    missing = limit - level if level < limit else 0.0
    remaining = int(level + 1e-6) if level > 0 else 0
    return Rate(limit, remaining, missing * MINUTE / limit if limit else MINUTE)


def header_lines(requests: Rate | None, tokens: Rate | None) -> str:
    """OpenAI's `x-ratelimit-*`, each line with its end; nothing where there is no limit."""
    lines = "" if requests is None else _lines("requests", requests)
    return lines if tokens is None else lines + _lines("tokens", tokens)


def headers(requests: Rate | None, tokens: Rate | None) -> Mapping[str, str]:
    """The same as a mapping."""
    return HeaderLines(header_lines(requests, tokens))


def _lines(kind: str, rate: Rate) -> str:
    return (
        f"x-ratelimit-limit-{kind}: {rate.limit}\r\nx-ratelimit-remaining-{kind}: {rate.remaining}\r\n"
        f"x-ratelimit-reset-{kind}: {reset_text(rate.reset)}\r\n"
    )
