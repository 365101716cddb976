"""Knows what a request can cost at most and whether a budget has room for it; pure, in integer nano-USD."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codellama_proxy.core.clock import iso
from codellama_proxy.core.money import dollars
from codellama_proxy.core.snapshot import Tariff
from codellama_proxy.limits.rates import Refusal, ScopeLimits

LEAST_TOKENS = 16
"""An answer clamped below this is not worth its price."""


class Bound(NamedTuple):
    """What a request can cost at most: a part that is fixed, and a price for each token of answers."""

    input_units: int
    """Of the prompt, and of output that `max_tokens` does not bound: tokens times nano-USD per million tokens."""
    output_units: int
    """Of one token in each of the answers."""

    def nanos(self, max_tokens: int) -> int:
        return -(-(self.input_units + max_tokens * self.output_units) // 1_000_000)

    def tokens(self, headroom: int) -> int | None:
        """How many tokens fit; negative when not even the input does, `None` when any number does."""
        left = headroom * 1_000_000 - self.input_units
        if left < 0:
            return -1
        return None if self.output_units == 0 else left // self.output_units


def bound(
    prices: Iterable[Tariff | None],
    prompt_bounds: Sequence[int],
    n: int,
    calls_units: int = 0,
    unbounded: Sequence[int] = (),
) -> Bound:
    """At the dearest candidate, for any class the tokens could turn out to be.

    `prompt_bounds`: tokens of the prompt at each candidate; `calls_units`: of server tools; `unbounded`: output
    tokens at each candidate that `max_tokens` does not bound, empty for none.
    """
    dearest_input = dearest_output = 0
    for price, prompt, more in zip(
        prices, prompt_bounds, unbounded or (0,) * len(prompt_bounds), strict=True
    ):
        if price is not None:
            token = max(price.input, price.cached_input or 0, price.cache_write or 0)
            dearest_input = max(dearest_input, prompt * token + more * price.output)
            dearest_output = max(dearest_output, price.output)
    return Bound(dearest_input + calls_units, max(n, 1) * dearest_output)


def fit(cost: Bound, wanted: int, headroom: int) -> int | None:
    """The `max_tokens` that may be sent: what was wanted, less if less fits, `None` if too little does."""
    fits = cost.tokens(headroom)
    if fits is None:
        return wanted
    return min(wanted, fits) if fits >= min(wanted, LEAST_TOKENS) else None


def over_budget(scope: ScopeLimits, spent: int, held: int, resets_at: float | None, most: int = 0) -> Refusal:
    """Names scope, limit, spent, reset, and what the request could have cost."""
    running = f", {dollars(held)} held by running requests" if held else ""
    reset = "never resets" if resets_at is None else f"resets at {iso(resets_at)}"
    could = f" The request could have cost up to {dollars(most)}." if most else ""
    message = (
        f"Budget exceeded for {scope.label}: limit {dollars(scope.limits.max_budget or 0)}, "
        f"spent {dollars(spent)}{running}; it {reset}.{could}"
    )
    return Refusal("insufficient_quota", "insufficient_quota", message, None, scope.kind, "budget")
