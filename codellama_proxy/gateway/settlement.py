"""Converts a finished request into its settlement."""

from __future__ import annotations

from codellama_proxy.core.clock import nearest
from codellama_proxy.limits.admission import Settlement, attempts_json
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext


def settlement(context: RequestContext, charge: RequestCharge) -> Settlement:
    """The settlement of a request that has ended."""
    serving, ended, started, first_at = context.serving, context.ended, context.started, context.first_at
    usage, basis, cost, saved, _ = charge
    return Settlement(
        context.id,
        context.status,
        context.http_status,
        attempts_json(context.shown_attempts),
        serving.name if serving else None,
        serving.id if serving else None,
        context.upstream_model,
        usage,
        basis,
        cost,
        saved,
        context.cache,
        None if first_at is None else nearest((first_at - started) * 1000, 100),
        nearest((ended - started) * 1000, 100),
    )
