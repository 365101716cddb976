"""A finished request as log lines show it."""

from __future__ import annotations

from typing import Any

from codellama_proxy.core.money import usd
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext


def request_record(context: RequestContext, charge: RequestCharge) -> dict[str, Any]:
    """The fields of its log line: no content, no header, no secret."""
    serving, first_ms = context.serving, context.first_ms
    return {
        "request_id": context.id,
        "endpoint": context.endpoint,
        "key_id": context.key.key_id if context.key else None,
        "project": context.settings.name,
        "session": context.session,
        "agent": context.agent,
        "model_requested": context.request.model if context.request else None,
        "model": serving.name if serving else None,
        "deployment": serving.id if serving else None,
        "stream": context.request.stream if context.request else None,
        "status": context.status,
        "http_status": context.http_status,
        "error": context.error.code if context.error else None,
        "error_detail": context.error.detail if context.error else None,
        "shadowed": _shadowed(context),
        "attempts": [attempt.to_json() for attempt in context.attempts],
        "prompt_tokens": charge.usage.prompt_tokens,
        "completion_tokens": charge.usage.completion_tokens,
        "cached_tokens": charge.usage.cached_tokens,
        "cost_usd": usd(charge.cost_nanos),
        "basis": charge.basis,
        "cache": context.cache,
        "first_ms": None if first_ms is None else round(first_ms, 2),
        "overhead_ms": round((context.ended - context.started - context.waited) * 1000, 2),
        "total_ms": round((context.ended - context.started) * 1000, 2),
        "config": context.config,
    }


def _shadowed(context: RequestContext) -> list[str]:
    """What shadow limits would have refused: `key:requests`."""
    if context.admission is None or not context.admission.shadowed:
        return []
    return [f"{refusal.scope}:{refusal.kind}" for refusal in context.admission.shadowed]
