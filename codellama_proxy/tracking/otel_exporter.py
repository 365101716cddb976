"""Exports requests as OpenTelemetry spans, named by the GenAI semantic conventions.

One span for the request, in the client's trace if it sent a W3C `traceparent`, and a child span for each attempt.
They are created when the request has ended, and exported by a background thread. They contain no prompt, answer,
key or address.
(opentelemetry.io/docs/specs/semconv/gen-ai)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from codellama_proxy import __version__
from codellama_proxy.core.money import NANOS
from codellama_proxy.core.types import Attempt
from codellama_proxy.openai_format.parameters import SPAN_ATTRIBUTES
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext

OPERATIONS: Mapping[str, str] = {
    "chat/completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}

log = logging.getLogger(__name__)


class SpanExporter:
    """Configured by OpenTelemetry's environment variables: endpoint, sampler, service name."""

    def __init__(self) -> None:
        resource = Resource({"service.version": __version__}).merge(Resource.create())
        if str(resource.attributes.get("service.name")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "codellama-proxy"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("codellama_proxy", __version__)
        self._parent = TraceContextTextMapPropagator()

    def finished(self, context: RequestContext, charge: RequestCharge) -> None:
        try:
            self._export(context, charge)
        except Exception:
            log.exception("a request could not be traced")

    def close(self, seconds: float) -> None:
        # A daemon thread: a collector that hangs must not keep the process alive.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(seconds)

    def _export(self, context: RequestContext, charge: RequestCharge) -> None:
        span = self._tracer.start_span(
            _name(context),
            context=self._parent.extract(context.hints),
            kind=SpanKind.SERVER,
            attributes=_request(context) | _response(context, charge) | _proxy_attributes(context, charge),
            start_time=_unix_nanos(context, context.started),
        )
        if context.error is not None:
            _fail(span, context.error.code)
        elif context.gone:
            _fail(span, "client_left")
        inside = set_span_in_context(span)
        for attempt in context.attempts:
            child = self._tracer.start_span(
                f"attempt {attempt.deployment}",
                context=inside,
                kind=SpanKind.CLIENT,
                attributes=_attempt(context, attempt),
                start_time=_unix_nanos(context, attempt.started or context.started),
            )
            if attempt.failure is not None:
                _fail(child, attempt.failure.reason or attempt.failure.cls)
            child.end(_unix_nanos(context, (attempt.started or context.started) + attempt.ms / 1000))
        span.end(_unix_nanos(context, context.ended))


def _unix_nanos(context: RequestContext, at: float) -> int:
    """A monotonic time as Unix nanoseconds."""
    return int((context.created_at + at - context.started) * NANOS)


def _fail(span: Span, word: str) -> None:
    span.set_status(Status(StatusCode.ERROR, word))
    span.set_attribute("error.type", word)


def _operation(context: RequestContext) -> str:
    return OPERATIONS.get(context.endpoint, context.endpoint)


def _model_requested(context: RequestContext) -> str | None:
    return context.request.model if context.request else None


def _name(context: RequestContext) -> str:
    """The span's name. Only configured models are part of it, so that there are few different names."""
    model = context.serving or context.tried
    return f"{_operation(context)} {model.name}" if model else _operation(context)


def _present(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _request(context: RequestContext) -> dict[str, Any]:
    request: InferenceRequest | None = context.sent or context.request
    params = request.params if request else {}
    named = {shown: params[name] for name, shown in SPAN_ATTRIBUTES.items() if name in params}
    return _present(
        {
            "gen_ai.operation.name": _operation(context),
            "gen_ai.request.model": _model_requested(context),
            "gen_ai.request.max_tokens": request.max_tokens if request else None,
            **named,
        }
    )


def _response(context: RequestContext, charge: RequestCharge) -> dict[str, Any]:
    tried = context.serving or context.tried
    return _present(
        {
            "gen_ai.provider.name": PROVIDERS.get(tried.provider, tried.provider) if tried else None,
            "gen_ai.response.model": context.upstream_model,
            "gen_ai.response.finish_reasons": [context.finish_reason] if context.finish_reason else None,
            "gen_ai.usage.input_tokens": charge.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": charge.usage.completion_tokens,
            "http.response.status_code": context.http_status,
        }
    )


def _proxy_attributes(context: RequestContext, charge: RequestCharge) -> dict[str, Any]:
    return _present(
        {
            "proxy.request_id": context.id,
            "proxy.project": context.settings.name,
            "proxy.key_id": context.key.key_id if context.key else None,
            "proxy.endpoint": context.endpoint,
            "gen_ai.conversation.id": context.session,
            "proxy.agent": context.agent,
            "proxy.model": context.serving.name if context.serving else None,
            "proxy.deployment": context.serving.id if context.serving else None,
            "proxy.status": context.status,
            "proxy.basis": charge.basis,
            "proxy.cache": context.cache,
            "proxy.cost_usd": None if charge.cost_nanos is None else charge.cost_nanos / NANOS,
            "proxy.config": context.config,
        }
    )


def _attempt(context: RequestContext, attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return _present(
        {
            "gen_ai.operation.name": _operation(context),
            "proxy.deployment": attempt.deployment,
            "proxy.class": failure.cls if failure else "ok",
            "http.response.status_code": failure.status if failure else 200,
        }
    )
