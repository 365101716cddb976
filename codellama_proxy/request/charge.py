"""What a whole request used and costs: the sum over its upstream calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from codellama_proxy.core.snapshot import Deployment, Price
from codellama_proxy.core.types import Basis, Usage
from codellama_proxy.pricing import charge as charging
from codellama_proxy.pricing.charge import Call
from codellama_proxy.request.context import RequestContext

PriceOf = Callable[[Deployment], Price | None]


class RequestCharge(NamedTuple):
    """What a request used and what that costs: the sum over its upstream calls."""

    usage: Usage
    basis: Basis
    """Of the least certain of them."""
    cost_nanos: int | None
    """`None`: the price of at least one of them is unknown."""
    saved_nanos: int | None = 0
    """What an answer from the cache would have cost; `None`: unknown."""
    capped: bool = False
    """The upstream reported more than is possible."""


def uncharged(context: RequestContext) -> list[Call]:
    """Its ended calls that have no charge yet."""
    return [call for call in context.calls if call.ended is not None and call.charge is None]


def request_charge(context: RequestContext, price_of: PriceOf) -> RequestCharge:
    """What to book, once every call is charged: an answer from the cache is free, and tells what it saved."""
    kept = context.kept
    if kept is None:
        whole = charging.total([call.charge for call in context.calls if call.charge is not None])
        return RequestCharge(whole.usage, whole.basis, whole.cost_nanos, capped=whole.capped)
    usage = kept.usage or kept.counted or Usage()
    saved = charging.priced(kept, usage, price_of(kept.deployment)) if context.complete else 0
    return RequestCharge(usage, "cached", 0, saved)
