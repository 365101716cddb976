"""Traces of the real server as a collector gets them, and nothing of it where nobody asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.processes import free_port, until
from tests.support.proxy_process import ProxyFactory, config
from tests.support.upstream.process import Upstream

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP receiver over HTTP."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services.add(attributes(resource.resource)["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans

    @property
    def env(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server.server_port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def request(self, request_id: str) -> tuple[Span, list[Span]]:
        """The span of one request, and those of its attempts, in order."""

        def found() -> list[Span]:
            return [span for span in self.spans if attributes(span).get("proxy.request_id") == request_id]

        (root,) = until(found, "the request's span")
        children = [span for span in self.spans if span.parent_span_id == root.span_id]
        return root, sorted(children, key=lambda span: span.start_time_unix_nano)


def attributes(of: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in of.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(item) for item in found.values] if kind == "array_value" else found


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_its_attempts_are_spans_in_the_clients_trace(
    proxy: ProxyFactory, upstream: Upstream, collector: Collector, stream: bool
) -> None:
    down = upstream.model("down", "status=500", fallbacks=["fast"])
    one = proxy(config(down, upstream.model("fast"), routing={"retries": 0}), env=collector.env)
    body = {"model": "down", "prompt": "CANARY", "stream": stream, "temperature": 0.5, "max_tokens": 9}
    headers = {**one.auth, "traceparent": PARENT}
    answer = one.client.post("/chat/completions", json=body, headers=headers)
    row = one.row(answer.headers["x-request-id"])
    root, (first, second) = collector.request(answer.headers["x-request-id"])
    assert root.trace_id.hex() == PARENT.split("-")[1]
    assert root.parent_span_id.hex() == PARENT.split("-")[2]
    assert root.name == "chat fast"
    assert root.kind == Span.SPAN_KIND_SERVER
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai_compatible",
        "gen_ai.request.model": "down",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": row["completion_tokens"],
        "http.response.status_code": 200,
        "proxy.deployment": "fast#1",
        "proxy.status": "ok",
        "proxy.cost_usd": pytest.approx(row["cost_usd"]),
    }
    assert expected.items() <= attributes(root).items()
    assert [span.name for span in (first, second)] == ["attempt down#1", "attempt fast#1"]
    assert attributes(first)["proxy.class"] == "transient"
    assert attributes(first)["error.type"]
    assert attributes(second)["proxy.class"] == "ok"
    moments = [
        root.start_time_unix_nano,
        first.start_time_unix_nano,
        first.end_time_unix_nano,
        second.start_time_unix_nano,
        second.end_time_unix_nano,
        root.end_time_unix_nano,
    ]
    assert moments == sorted(moments)
    assert collector.services == {"codellama-proxy"}
    sent = b"".join(collector.raw)
    assert not [word for word in (b"CANARY", one.key.encode(), b"sk-upstream-secret") if word in sent]


def test_a_failed_request_is_an_error_span_in_its_own_trace(
    proxy: ProxyFactory, upstream: Upstream, collector: Collector
) -> None:
    one = proxy(config(upstream.model("down", "status=500")), env=collector.env)
    root, children = collector.request(one.chat().headers["x-request-id"])
    assert not root.parent_span_id
    assert root.status.code == 2
    assert attributes(root)["error.type"] == "upstream_error"
    assert attributes(root)["http.response.status_code"] == 502
    assert len(children) == 2


def test_queued_spans_are_sent_at_shutdown(
    proxy: ProxyFactory, upstream: Upstream, collector: Collector
) -> None:
    env = {**collector.env, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "gateway-east"}
    one = proxy(config(upstream.model("fast")), env=env)
    request_id = one.chat().headers["x-request-id"]
    assert not collector.spans
    one.stop()
    collector.request(request_id)
    assert collector.services == {"gateway-east"}


def test_an_unreachable_collector_does_not_affect_requests(proxy: ProxyFactory, upstream: Upstream) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    one = proxy(config(upstream.model("fast")), env=env, allow=["Failed to export", "otlp", "Connection"])
    assert all(one.chat().status_code == 200 for _ in range(5))
    assert one.stop() == 0


def test_opentelemetry_is_not_imported_unless_configured() -> None:
    program = "import sys, codellama_proxy.server; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
