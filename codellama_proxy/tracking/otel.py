"""Whether requests are traced: only if the environment names a collector, and only then is OpenTelemetry imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking.log import Log

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own variables; its others (headers, sampler, service name) mean what they always mean."""


class Spans(Protocol):
    def finished(self, trace: RequestContext, done: RequestCharge) -> None:
        """One request has ended."""

    def close(self, seconds: float) -> None:
        """Sends what waits, for so long at most. Blocks."""


def wanted(environ: Mapping[str, str]) -> bool:
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and any(environ.get(name) for name in ENDPOINTS)


def open_spans(environ: Mapping[str, str], log: Log) -> Spans | None:
    """`None` where nobody wants any."""
    if not wanted(environ):
        return None
    try:
        from codellama_proxy.tracking import otel_exporter as otel  # noqa: PLC0415 - an extra, and half a second to import
    except ImportError:
        log.line(
            "The environment names a collector, but OpenTelemetry is not installed: "
            "pip install 'codellama-proxy[otel]'",
            "warning",
        )
        return None
    return otel.Exported()
