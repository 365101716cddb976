"""What Prometheus reads: the right names, the right numbers, and never more series than were meant."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from codellama_proxy.core.snapshot import Deployment, Project
from codellama_proxy.core.types import Attempt, Failure, Usage
from codellama_proxy.limits.admission import Admission, LimitExceededError
from codellama_proxy.limits.rates import Refusal
from codellama_proxy.openai_format.request import parse_chat
from codellama_proxy.request.charge import RequestCharge
from codellama_proxy.request.context import RequestContext
from codellama_proxy.tracking import metrics as module
from codellama_proxy.tracking.metrics import Metrics
from codellama_proxy.tracking.unlocked_metrics import MAX_SERIES, MAX_VALUES, UnlockedHistogram
from tests.support.builders import chat
from tests.support.processes import ROOT

GPT = Deployment("gpt-4#1", "gpt-4", "openai", "gpt-4.1")
LABELS = ("project", "model", "deployment", "status", "direction", "class", "result", "scope", "kind", "le")
NAMES = {
    "proxy_requests_total",
    "proxy_request_seconds",
    "proxy_overhead_seconds",
    "proxy_time_to_first_token_seconds",
    "proxy_tokens_total",
    "proxy_cost_usd_total",
    "proxy_attempts_total",
    "proxy_cooldown",
    "proxy_cache_total",
    "proxy_cache_troubles_total",
    "proxy_limited_total",
    "proxy_ui_sign_ins_total",
    "proxy_http_requests_total",
    "proxy_log_lines_dropped_total",
    "proxy_config_reload_total",
    "proxy_config_loaded_timestamp_seconds",
    "proxy_tracking_dropped_total",
    "proxy_unpriced_requests_total",
    "proxy_usage_capped_total",
}
WITH_A_SERVER = {"proxy_workers", "proxy_late_settlements_total"}
"""Shown if the database may have other processes."""


def a_trace(**given: Any) -> RequestContext:
    values: dict[str, Any] = {
        "id": "req_1",
        "started": 100.0,
        "created_at": 1e9,
        "endpoint": "chat/completions",
        "config": "0123456789ab",
        "settings": Project("web"),
        "serving": GPT,
        "attempts": [Attempt("gpt-4#1", None, 800.0)],
        "waited": 0.8,
        "ended": 101.0,
        "complete": True,
    }
    return RequestContext(**values | given)


DONE = RequestCharge(Usage(10, 20), "exact", 2_500_000_000)


def samples(metrics: Metrics) -> dict[tuple[Any, ...], float]:
    """`(name, *label values) -> value`, the labels in one order."""
    page, _ = metrics.page("text/plain")
    found = text_string_to_metric_families(page.decode())
    return {
        (s.name, *(s.labels[name] for name in LABELS if name in s.labels)): s.value
        for family in found
        for s in family.samples
    }


def fresh() -> Metrics:
    return Metrics({"gpt-4": "gpt-4", "claude-x": "claude"}.get)


def test_a_request_is_counted_in_every_applicable_metric() -> None:
    metrics = fresh()
    metrics.finished(a_trace(first_at=100.3, request=chat(stream=True)), DONE)
    found = samples(metrics)
    assert found["proxy_requests_total", "web", "gpt-4", "ok"] == 1
    assert found["proxy_tokens_total", "gpt-4", "prompt"] == 10
    assert found["proxy_tokens_total", "gpt-4", "completion"] == 20
    assert found["proxy_cost_usd_total", "web", "gpt-4"] == 2.5
    assert found["proxy_attempts_total", "gpt-4#1", "ok"] == 1
    assert found["proxy_cache_total", "off"] == 1
    assert found["proxy_request_seconds_sum",] == pytest.approx(1.0)
    assert found["proxy_overhead_seconds_sum",] == pytest.approx(0.2)
    assert found["proxy_time_to_first_token_seconds_sum",] == pytest.approx(0.3)


def test_a_refused_request_counts_for_the_model_of_its_alias() -> None:
    metrics = fresh()
    for name in ("claude-x", "gpt-4", "nothing"):
        refused = {"serving": None, "attempts": [], "complete": False, "request": chat(model=name)}
        metrics.finished(a_trace(**refused), RequestCharge(Usage(), "exact", 0))
    found = samples(metrics)
    assert {labels[2]: n for labels, n in found.items() if labels[0] == "proxy_requests_total"} == {
        "claude": 1,
        "gpt-4": 1,
        "none": 1,
    }


def test_a_plain_answer_has_no_time_to_first_token() -> None:
    metrics = fresh()
    metrics.finished(a_trace(), DONE)
    assert samples(metrics)["proxy_time_to_first_token_seconds_count",] == 0


def test_every_attempt_is_counted_with_its_failure_class() -> None:
    metrics = fresh()
    busy = Attempt("codellama#1", Failure("busy", 429), 5.0)
    metrics.finished(a_trace(attempts=[busy, Attempt("gpt-4#1", None, 5.0)]), DONE)
    found = samples(metrics)
    assert found["proxy_attempts_total", "codellama#1", "busy"] == 1
    assert found["proxy_attempts_total", "gpt-4#1", "ok"] == 1


def test_an_unknown_price_is_counted_without_cost() -> None:
    metrics = fresh()
    metrics.finished(a_trace(), RequestCharge(Usage(1, 1), "exact", None, capped=True))
    found = samples(metrics)
    assert found["proxy_unpriced_requests_total", "gpt-4"] == 1
    assert found["proxy_usage_capped_total", "gpt-4"] == 1
    assert not [name for name, *_ in found if name == "proxy_cost_usd_total"]


def test_refusals_and_shadow_refusals_are_counted_by_scope_and_kind() -> None:
    metrics = fresh()
    refusal = Refusal("rate_limit_exceeded", "requests", "no", 1.0, "key", "requests")
    shadowed = Refusal("insufficient_quota", "insufficient_quota", "no", None, "project", "budget")
    refused = a_trace(
        complete=False, serving=None, attempts=[], error=LimitExceededError(refusal, None, None)
    )
    metrics.finished(refused, RequestCharge(Usage(), "exact", 0))
    metrics.finished(a_trace(admission=Admission(shadowed=(shadowed,))), DONE)
    found = samples(metrics)
    assert found["proxy_limited_total", "key", "requests"] == 1
    assert found["proxy_limited_total", "project", "budget"] == 1
    assert found["proxy_requests_total", "web", "none", "error"] == 1


def test_unknown_model_names_create_no_series() -> None:
    metrics = fresh()
    for asked in ("gpt-4", "made-up-1", "made-up-2"):
        chat = parse_chat(b'{"prompt": "x", "model": "%s"}' % asked.encode())
        metrics.finished(a_trace(complete=False, serving=None, attempts=[], request=chat), DONE)
    found = samples(metrics)
    assert found["proxy_requests_total", "web", "gpt-4", "error"] == 1
    assert found["proxy_requests_total", "web", "none", "error"] == 2


def test_projects_beyond_the_limit_share_one_label() -> None:
    metrics = fresh()
    for number in range(MAX_VALUES["project"] + 25):
        metrics.finished(a_trace(settings=Project(f"p{number}")), DONE)
    found = samples(metrics)
    of_requests = [key for key in found if key[0] == "proxy_requests_total"]
    assert len(of_requests) == MAX_VALUES["project"] + 1
    assert found["proxy_requests_total", "other", "gpt-4", "ok"] == 25
    assert sum(found[key] for key in of_requests) == MAX_VALUES["project"] + 25


def test_combinations_of_projects_and_models_are_bounded() -> None:
    metrics = fresh()
    for project in range(MAX_VALUES["project"]):
        for model in range(30):
            serving = Deployment(f"m{model}#1", f"m{model}", "openai", "m")
            metrics.finished(a_trace(settings=Project(f"p{project}"), serving=serving, attempts=[]), DONE)
    page, _ = metrics.page("text/plain")
    counts = [line.split()[-1] for line in page.splitlines() if line.startswith(b"proxy_requests_total{")]
    assert len(counts) <= MAX_SERIES + 3
    assert sum(map(float, counts)) == MAX_VALUES["project"] * 30


def test_names_with_quotes_and_line_breaks_are_escaped() -> None:
    metrics = fresh()
    metrics.finished(a_trace(settings=Project('we"b\n{x="1"} 7')), DONE)
    assert samples(metrics)["proxy_requests_total", 'we"b\n{x="1"} 7', "gpt-4", "ok"] == 1


def test_the_page_has_exactly_the_public_metrics() -> None:
    metrics = fresh()
    metrics.register(lambda: [module.cooldown({"gpt-4#1": True}), *module.reloads(2, 1, 1e9)])
    metrics.register(lambda: [module.dropped(3), module.cache_troubles({"unreadable": 1})])
    metrics.register(lambda: [module.lines_dropped(2)])
    metrics.register(lambda: module.installation({"0123456789ab": 3}, 1))
    page, _ = metrics.page("text/plain")
    shown = {line.split()[2] for line in page.decode().splitlines() if line.startswith("# TYPE")}
    assert shown == NAMES | WITH_A_SERVER
    found = samples(metrics)
    assert found["proxy_cooldown", "gpt-4#1"] == 1
    assert found["proxy_config_reload_total", "ok"] == 2
    assert found["proxy_config_reload_total", "error"] == 1
    assert found["proxy_tracking_dropped_total",] == 3


@given(st.lists(st.floats(0, 400) | st.sampled_from(module.REQUEST_BUCKETS), max_size=20))
def test_histograms_are_those_of_the_library(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = UnlockedHistogram("a_seconds", "Help.", module.REQUEST_BUCKETS)
    ours.register(histogram)
    expected = Histogram("a_seconds", "Help.", buckets=module.REQUEST_BUCKETS, registry=theirs)
    for value in values:
        histogram.observe(value)
        expected.observe(value)
    assert generate_latest(ours) == generate_latest(theirs)


def test_sums_are_complete_however_often_they_are_read() -> None:
    metrics = fresh()
    for number in range(6):
        metrics.finished(
            a_trace(settings=Project(f"p{number % 2}"), cache="hit" if number % 3 else "miss"), DONE
        )
        if number == 3:
            metrics.page("text/plain")
    found = samples(metrics)
    assert [found["proxy_requests_total", f"p{n}", "gpt-4", "ok"] for n in (0, 1)] == [3, 3]
    assert [found["proxy_cache_total", result] for result in ("hit", "miss")] == [4, 2]
    assert [found["proxy_tokens_total", "gpt-4", way] for way in ("prompt", "completion")] == [60, 120]
    assert found["proxy_cost_usd_total", "p0", "gpt-4"] == 7.5


def test_openmetrics_is_served_on_request() -> None:
    page, content_type = fresh().page("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_the_documentation_lists_exactly_the_metrics() -> None:
    text = (ROOT / "docs" / "tracking.md").read_text()
    assert set(re.findall(r"`(proxy_\w+)(?:\{[\w,]+\})?`", text)) == NAMES | WITH_A_SERVER
