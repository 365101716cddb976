"""Requests as OpenTelemetry spans, by the names of the GenAI semantic conventions; the only module that knows it.

One span for the request, in the client's trace if it sent a W3C `traceparent`, and one for each attempt in it.
They are made when the request has ended, out of what was noted anyway, and sent by a thread of their own. They
hold no prompt, no answer, no key and no address.
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


class Exported:
    """Where the spans go, how they are sampled and what the service is called: OpenTelemetry's variables say."""

    def __init__(self) -> None:
        resource = Resource({"service.version": __version__}).merge(Resource.create())
        if str(resource.attributes.get("service.name")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "codellama-proxy"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("codellama_proxy", __version__)
        self._parent = TraceContextTextMapPropagator()

    def finished(self, trace: RequestContext, done: RequestCharge) -> None:
        try:
            self._export(trace, done)
        except Exception:
            log.exception("a request could not be traced")

    def close(self, seconds: float) -> None:
        # A collector that hangs must not keep the process: the thread ends with it.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(seconds)

    def _export(self, trace: RequestContext, done: RequestCharge) -> None:
        span = self._tracer.start_span(
            _name(trace),
            context=self._parent.extract(trace.hints),
            kind=SpanKind.SERVER,
            attributes=_request(trace) | _answer(trace, done) | _ours(trace, done),
            start_time=_moment(trace, trace.started),
        )
        if trace.error is not None:
            _fail(span, trace.error.code)
        elif trace.gone:
            _fail(span, "client_left")
        inside = set_span_in_context(span)
        for attempt in trace.attempts:
            child = self._tracer.start_span(
                f"attempt {attempt.deployment}",
                context=inside,
                kind=SpanKind.CLIENT,
                attributes=_attempt(trace, attempt),
                start_time=_moment(trace, attempt.started or trace.started),
            )
            if attempt.failure is not None:
                _fail(child, attempt.failure.reason or attempt.failure.cls)
            child.end(_moment(trace, (attempt.started or trace.started) + attempt.ms / 1000))
        span.end(_moment(trace, trace.ended))


def _moment(trace: RequestContext, at: float) -> int:
    """Unix nanoseconds of a monotonic moment."""
    return int((trace.created_at + at - trace.started) * NANOS)


def _fail(span: Span, word: str) -> None:
    span.set_status(Status(StatusCode.ERROR, word))
    span.set_attribute("error.type", word)


def _operation(trace: RequestContext) -> str:
    return OPERATIONS.get(trace.endpoint, trace.endpoint)


def _asked(trace: RequestContext) -> str | None:
    return trace.chat.model if trace.chat else None


def _name(trace: RequestContext) -> str:
    """Of few different ones: a name nobody serves is not part of it."""
    model = trace.serving or trace.tried
    return f"{_operation(trace)} {model.name}" if model else _operation(trace)


def _present(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _request(trace: RequestContext) -> dict[str, Any]:
    chat: InferenceRequest | None = trace.sent or trace.chat
    params = chat.params if chat else {}
    named = {shown: params[name] for name, shown in SPAN_ATTRIBUTES.items() if name in params}
    return _present(
        {
            "gen_ai.operation.name": _operation(trace),
            "gen_ai.request.model": _asked(trace),
            "gen_ai.request.max_tokens": chat.max_tokens if chat else None,
            **named,
        }
    )


def _answer(trace: RequestContext, done: RequestCharge) -> dict[str, Any]:
    tried = trace.serving or trace.tried
    return _present(
        {
            "gen_ai.provider.name": PROVIDERS.get(tried.provider, tried.provider) if tried else None,
            "gen_ai.response.model": trace.upstream_model,
            "gen_ai.response.finish_reasons": [trace.finish_reason] if trace.finish_reason else None,
            "gen_ai.usage.input_tokens": done.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": done.usage.completion_tokens,
            "http.response.status_code": trace.http_status,
        }
    )


def _ours(trace: RequestContext, done: RequestCharge) -> dict[str, Any]:
    return _present(
        {
            "proxy.request_id": trace.id,
            "proxy.project": trace.project,
            "proxy.key_id": trace.key.key_id if trace.key else None,
            "proxy.model": trace.serving.name if trace.serving else None,
            "proxy.deployment": trace.serving.id if trace.serving else None,
            "proxy.status": trace.status,
            "proxy.basis": done.basis,
            "proxy.cache": trace.cache,
            "proxy.cost_usd": None if done.cost_nanos is None else done.cost_nanos / NANOS,
            "proxy.config": trace.config,
        }
    )


def _attempt(trace: RequestContext, attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return _present(
        {
            "gen_ai.operation.name": _operation(trace),
            "proxy.deployment": attempt.deployment,
            "proxy.class": failure.cls if failure else "ok",
            "http.response.status_code": failure.status if failure else 200,
        }
    )
