"""Usage and cost of a whole request: the sum over its upstream calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from codellama_proxy.core.snapshot import Deployment, Price
from codellama_proxy.core.types import Basis, Charge, Usage
from codellama_proxy.pricing import charge as charging
from codellama_proxy.pricing.charge import Call
from codellama_proxy.request.context import RequestContext

PriceOf = Callable[[Deployment], Price | None]


class RequestCharge(NamedTuple):
    """Usage and cost of a request, summed over its upstream calls."""

    usage: Usage
    basis: Basis
    """The basis of the least certain call."""
    cost_nanos: int | None
    """`None`: the price of at least one call is unknown."""
    saved_nanos: int | None = 0
    """Nano-USD that a cached answer saved; `None`: unknown."""
    capped: bool = False
    """The upstream reported more than is possible, so the bound is booked."""


def uncharged(context: RequestContext) -> list[Call]:
    """Its ended calls that have no charge yet."""
    calls = context.calls
    if not calls or (len(calls) == 1 and calls[0].charge is not None):  # nearly every request
        return []
    return [call for call in calls if call.ended is not None and call.charge is None]


def total_charge(context: RequestContext) -> Charge:
    """The sum over its upstream calls."""
    if len(context.calls) == 1 and (only := context.calls[0].charge) is not None:
        return only
    return charging.total([call.charge for call in context.calls if call.charge is not None])


def request_charge(context: RequestContext, price_of: PriceOf) -> RequestCharge:
    """What to book, once every call has a charge. An answer from the cache costs nothing."""
    kept = context.kept
    if kept is None:
        usage, basis, cost, capped = total_charge(context)
        return RequestCharge(usage, basis, cost, 0, capped)
    usage = kept.usage or kept.counted or Usage()
    saved = charging.priced(kept, usage, price_of(kept.deployment)) if context.complete else 0
    return RequestCharge(usage, "cached", 0, saved)
