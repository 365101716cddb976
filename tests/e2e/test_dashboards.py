"""Dashboard and alerts ask only for what the real /metrics has: every metric, every label, every value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from codellama_proxy.tracking.metrics import installation
from tests.support.cases import each
from tests.support.processes import ROOT, until
from tests.support.proxy_process import ProxyFactory, config
from tests.support.upstream.process import Upstream

DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text())
QUERIES = [
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
    *(rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]),
]
SELECTOR = re.compile(r"(proxy_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=|!=)"([^"]*)"')
BY = re.compile(r"by \(([^)]*)\)")

# What each label can say: a query for any other value would be silent for ever.
VALUES: Mapping[str, set[str]] = {
    "status": {"ok", "error", "cancelled"},
    "class": {"ok", "caller", "credential", "busy", "transient", "disguised", "client_left"},
    "kind": {"requests", "tokens", "parallel", "budget"},
    "result": {"ok", "error", "hit", "semantic", "miss", "bypass", "off"},
}


@pytest.fixture(scope="module")
def labels(module_proxy: ProxyFactory, upstream_process: Upstream) -> dict[str, set[str]]:
    """The labels of every sample of a server that has seen everything once."""
    unpriced = upstream_process.model("unpriced", price=None)
    limits = {"user": {"rpm_limit": 1}}
    one = module_proxy(
        config(
            upstream_process.model("fast"),
            upstream_process.model("down", "status=401"),
            unpriced,
            limits=limits,
        )
    )
    for body in ({"stream": True}, {"model": "down"}, {"model": "unpriced"}, {"user": "a"}, {"user": "a"}):
        one.chat(body)

    def seen() -> dict[str, set[str]] | None:
        found: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(one.admin("GET", "/metrics").text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found if "proxy_limited_total" in found else None

    found = until(seen, "every kind of sample")
    with_server = (sample for family in installation({"digest": 1}, 0) for sample in family.samples)
    return {**found, **{sample.name: set(sample.labels) for sample in with_server}}


def selections(query: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for name, inner in SELECTOR.findall(query):
        yield name, [(label, value) for label, _, value in MATCHER.findall(inner)]


@each("query", QUERIES)
def test_queries_use_existing_metrics_and_labels(query: str, labels: dict[str, set[str]]) -> None:
    found = list(selections(query))
    assert found
    for name, matchers in found:
        assert name in labels
        for label, value in matchers:
            assert label in labels[name]
            assert value in VALUES[label]
    grouped = {label.strip() for group in BY.findall(query) for label in group.split(",")}
    assert grouped <= set.intersection(*(labels[name] for name, _ in found))


@each("query", QUERIES)
def test_quantiles_keep_buckets_and_counters_are_rated(query: str) -> None:
    if "histogram_quantile" in query:
        assert "by (le)" in query
        assert "_bucket[" in query
    for name, _ in selections(query):
        if name.endswith("_total"):
            assert re.search(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[", query)
    assert query.count("(") == query.count(")")


def test_every_alert_has_a_description() -> None:
    rules: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_dashboard_panels_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)
