"""A finished request as log lines show it."""

from __future__ import annotations

from typing import Any

from codellama_proxy.core.clock import nearest
from codellama_proxy.core.money import usd
from codellama_proxy.limits.admission import Settlement
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking.lines import bounded


def request_record(context: RequestContext, charge: RequestCharge, end: Settlement) -> dict[str, Any]:
    """The fields of its log line: no content, no header, no secret. `end`: its settlement."""
    request, error = context.request, context.error
    usage, basis, cost = charge[:3]
    prompt_tokens, completion_tokens, cached_tokens = usage[:3]
    status, http_status, _, model, deployment = end[1:6]
    first_ms, total_ms = end[12:14]
    return {
        "request_id": context.id,
        "endpoint": context.endpoint,
        "key_id": context.key.key_id if context.key else None,
        "project": context.settings.name,
        "session": context.session,
        "agent": context.agent,
        "model_requested": bounded(request.model) if request else None,
        "model": model,
        "deployment": deployment,
        "stream": request.stream if request else None,
        "status": status,
        "http_status": http_status,
        "error": error.code if error else None,
        "error_detail": bounded(error.detail) if error else None,
        "shadowed": _shadowed(context),
        "attempts": context.shown_attempts,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cached_tokens": cached_tokens,
        "cost_usd": usd(cost),
        "basis": basis,
        "cache": context.cache,
        "first_ms": first_ms,
        "overhead_ms": nearest((context.ended - context.started - context.waited) * 1000, 100),
        "total_ms": total_ms,
        "config": context.config,
    }


def _shadowed(context: RequestContext) -> list[str]:
    """What shadow limits would have refused: `key:requests`."""
    if context.admission is None or not context.admission.shadowed:
        return []
    return [f"{refusal.scope}:{refusal.kind}" for refusal in context.admission.shadowed]
