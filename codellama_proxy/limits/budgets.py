"""The maximum cost of a request, and whether a budget has room for it; pure, in integer nano-USD."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codellama_proxy.core.clock import iso
from codellama_proxy.core.money import dollars
from codellama_proxy.core.snapshot import Tariff
from codellama_proxy.limits.rates import Refusal, ScopeLimits

MIN_TOKENS = 16
"""A request is refused rather than clamped below this `max_tokens`."""


def nanos_of(units: int) -> int:
    """Nano-USD, rounded up. `units`: tokens times nano-USD per million tokens."""
    return -(-units // 1_000_000)


class Bound(NamedTuple):
    """The maximum cost of a request: a fixed part, and a price for each output token."""

    input_units: int
    """Of the prompt, and of output that `max_tokens` does not bound: tokens times nano-USD per million tokens."""
    output_units: int
    """Of one token in each of the answers."""

    def nanos(self, max_tokens: int) -> int:
        return nanos_of(self.input_units + max_tokens * self.output_units)

    def tokens(self, headroom: int) -> int | None:
        """How many tokens fit; negative if the input does not fit, `None` if any number fits."""
        left = headroom * 1_000_000 - self.input_units
        if left < 0:
            return -1
        return None if self.output_units == 0 else left // self.output_units


NO_COST = Bound(0, 0)
"""Of a request without any known price."""


def bound(
    prices: Iterable[Tariff | None],
    prompt_bounds: Sequence[int],
    n: int,
    calls_units: int = 0,
    unbounded: Sequence[int] = (),
) -> Bound:
    """The bound at the most expensive candidate, with the most expensive class of input tokens.

    `prompt_bounds`: tokens of the prompt at each candidate; `calls_units`: of server tools; `unbounded`: output
    tokens at each candidate that `max_tokens` does not bound, empty for none.
    """
    dearest_input = dearest_output = 0
    for price, prompt, more in zip(
        prices, prompt_bounds, unbounded or (0,) * len(prompt_bounds), strict=True
    ):
        if price is None:
            continue
        dearest_input = max(dearest_input, input_units(price, prompt, more))
        dearest_output = max(dearest_output, price.output)
    return Bound(dearest_input + calls_units, dearest_output if n < 2 else n * dearest_output)


def input_units(price: Tariff, prompt: int, unbounded: int) -> int:
    """`Bound.input_units` at one candidate, without server tools: of these tokens of prompt and answer."""
    token = price.input
    if price.cached_input is not None or price.cache_write is not None:
        token = max(token, price.cached_input or 0, price.cache_write or 0)
    return prompt * token + unbounded * price.output


def fit(cost: Bound, wanted: int, headroom: int) -> int | None:
    """The `max_tokens` that may be sent: `wanted`, or less if less fits; `None` if too little fits."""
    fits = cost.tokens(headroom)
    if fits is None:
        return wanted
    return min(wanted, fits) if fits >= min(wanted, MIN_TOKENS) else None


def over_budget(scope: ScopeLimits, spent: int, held: int, resets_at: float | None, most: int = 0) -> Refusal:
    """A refusal with scope, limit, spend, reset and the maximum cost of the request."""
    running = f", {dollars(held)} held by running requests" if held else ""
    reset = "never resets" if resets_at is None else f"resets at {iso(resets_at)}"
    could = f" The request could have cost up to {dollars(most)}." if most else ""
    message = (
        f"Budget exceeded for {scope.label}: limit {dollars(scope.limits.max_budget or 0)}, "
        f"spent {dollars(spent)}{running}; it {reset}.{could}"
    )
    return Refusal("insufficient_quota", "insufficient_quota", message, None, scope.kind, "budget")
