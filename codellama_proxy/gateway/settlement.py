"""Converts a finished request into its settlement."""

from __future__ import annotations

from codellama_proxy.core.clock import nearest
from codellama_proxy.limits.admission import Settlement
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext


def settlement(context: RequestContext, charge: RequestCharge) -> Settlement:
    """The settlement of a request that has ended."""
    first_ms, serving = context.first_ms, context.serving
    return Settlement(
        request_id=context.id,
        status=context.status,
        http_status=context.http_status,
        attempts=tuple(context.attempts),
        model=serving.name if serving else None,
        deployment=serving.id if serving else None,
        upstream_model=context.upstream_model,
        usage=charge.usage,
        basis=charge.basis,
        cost_nanos=charge.cost_nanos,
        saved_nanos=charge.saved_nanos,
        cache=context.cache,
        first_ms=None if first_ms is None else nearest(first_ms, 100),
        total_ms=nearest((context.ended - context.started) * 1000, 100),
    )
