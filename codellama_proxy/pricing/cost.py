"""Computes the cost of usage in nano-USD; uncertainty never lowers it."""

from __future__ import annotations

from collections.abc import Iterable

from codellama_proxy.core.snapshot import Price, Tariff
from codellama_proxy.core.types import Usage

PER = 1_000_000
"""Number of tokens or calls that a price is for."""
PLAIN_TIERS = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
"""Reported service tiers with the default price."""
MODES = frozenset({"fast", "us"})
"""Tiers that are requested by other parameters than `service_tier` and not reported in it."""
UNDECIDED_TIERS = frozenset({"", "auto"})
"""Requested tiers that leave the choice to the upstream."""


def cost(usage: Usage, price: Price, requested_tier: str = "") -> int:
    """The cost in nano-USD, rounded up once. Parts that exceed the whole count as plain tokens.

    `requested_tier` matters if the upstream does not report the tier: the cost is then the highest of the tiers that
    may apply.
    """
    if price.above or price.service_tiers:
        units = max(_units(usage, rates) for rates in _applicable(usage, price, requested_tier))
    else:
        units = _units(usage, price)
    if usage.tool_calls and price.server_tools:
        calls = dict(usage.tool_calls)
        units += sum(max(calls.get(name, 0), 0) * nanos for name, nanos in price.server_tools)
    return -(-units // PER)


def covers(price: Price, usage: Usage, requested_tier: str = "") -> bool:
    """Whether the price has a rate for everything in the usage that costs extra: tools, tier, one-hour cache writes."""
    if usage.tool_calls:
        priced = dict(price.server_tools)
        if any(calls > 0 and name not in priced for name, calls in usage.tool_calls):
            return False
    if usage.cache_write_1h_tokens > 0 and price.cache_write_1h is None:
        return False
    if usage.service_tier in PLAIN_TIERS and requested_tier in PLAIN_TIERS:
        return True
    tiers = _possible_tiers(usage, requested_tier) - PLAIN_TIERS
    return not tiers or tiers <= dict(price.service_tiers).keys()


def _possible_tiers(usage: Usage, requested_tier: str) -> set[str]:
    """The reported tier if that is sure, else the requested one too."""
    reported = usage.service_tier
    return {reported} if reported and requested_tier not in MODES else {reported, requested_tier}


def _applicable(usage: Usage, price: Price, requested_tier: str) -> Iterable[Tariff]:
    tiers = dict(price.service_tiers)
    by_length = of_length(price, max(usage.prompt_tokens, 0))
    names = _possible_tiers(usage, requested_tier)
    sure = bool(usage.service_tier) and requested_tier not in MODES
    applicable = [tiers[name] for name in names if name in tiers]
    if by_length is not price:
        applicable = [dearest((tier, by_length)) for tier in applicable]
    return applicable if sure and applicable else [*applicable, by_length]


def of_length(price: Price, prompt_tokens: int) -> Tariff:
    """The rates for a prompt of this length."""
    found: Tariff = price
    for tokens, rates in price.above:
        if prompt_tokens > tokens:
            found = rates
    return found


def reachable(price: Price, prompt_bound: int, requested_tier: str = "") -> Tariff:
    """The highest rate of each class that can apply to a request with this prompt bound and tier."""
    rates: list[Tariff] = [price]
    rates += [tier for tokens, tier in price.above if prompt_bound > tokens]
    open_tier = requested_tier in UNDECIDED_TIERS
    rates += [tier for name, tier in price.service_tiers if open_tier or name == requested_tier]
    return dearest(rates)


def dearest(rates: Iterable[Tariff]) -> Tariff:
    """The highest of these rates in each class."""
    given = tuple(rates)
    if len(given) == 1:
        (only,) = given
        return Tariff(only.input, only.output, _cached(only), _written(only), _written_1h(only))
    return Tariff(
        max(one.input for one in given),
        max(one.output for one in given),
        max(_cached(one) for one in given),
        max(_written(one) for one in given),
        max(_written_1h(one) for one in given),
    )


def _units(usage: Usage, rates: Tariff) -> int:
    if usage.prompt_tokens >= 0 <= usage.completion_tokens and not (
        usage.cached_tokens or usage.cache_write_tokens
    ):
        return usage.prompt_tokens * rates.input + usage.completion_tokens * rates.output
    prompt = max(usage.prompt_tokens, 0)
    cached = usage.cached_tokens if 0 <= usage.cached_tokens <= prompt else 0
    written = min(max(usage.cache_write_tokens, 0), prompt - cached)
    hour = min(max(usage.cache_write_1h_tokens, 0), written)
    units = (prompt - cached - written) * rates.input + max(usage.completion_tokens, 0) * rates.output
    if cached:
        units += cached * _cached(rates)
    if written:
        units += (written - hour) * _written(rates) + hour * _written_1h(rates)
    return units


def _cached(rates: Tariff) -> int:
    return rates.input if rates.cached_input is None else rates.cached_input


def _written(rates: Tariff) -> int:
    return rates.input if rates.cache_write is None else rates.cache_write


def _written_1h(rates: Tariff) -> int:
    return max(2 * rates.input, _written(rates)) if rates.cache_write_1h is None else rates.cache_write_1h


def input_cost(tokens: int, rates: Tariff) -> int:
    """The cost of uncached input in nano-USD, rounded up."""
    return -(-max(tokens, 0) * rates.input // PER)
