"""Starts tracing if the environment names a collector. OpenTelemetry is imported only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking.log import Log

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's variables for the endpoint; the SDK reads its others itself."""


class Spans(Protocol):
    def finished(self, context: RequestContext, charge: RequestCharge) -> None:
        """Export one request that has ended."""

    def close(self, seconds: float) -> None:
        """Flush, for at most so many seconds. Blocks."""


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the environment names a collector and does not disable the SDK."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and any(environ.get(name) for name in ENDPOINTS)


def open_spans(environ: Mapping[str, str], log: Log) -> Spans | None:
    """The exporter; `None` if tracing is off or OpenTelemetry is not installed, which is logged."""
    if not is_enabled(environ):
        return None
    try:
        from codellama_proxy.tracking import otel_exporter  # noqa: PLC0415 - an optional extra that takes half a second to import
    except ImportError:
        log.line(
            "The environment names a collector, but OpenTelemetry is not installed: "
            "pip install 'codellama-proxy[otel]'",
            "warning",
        )
        return None
    return otel_exporter.SpanExporter()
