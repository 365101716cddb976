"""/metrics of the real server: who may read it, and that its numbers are those of the ledger."""

from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import LOOPBACK, ROOT, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream
from tests.tracking.test_metrics import LABELS, NAMES


def samples(proxy: Proxy) -> dict[tuple[Any, ...], float]:
    answer = proxy.admin("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = text_string_to_metric_families(answer.text)
    return {
        (s.name, *(s.labels[name] for name in LABELS if name in s.labels)): s.value
        for family in found
        for s in family.samples
    }


def test_the_metrics_agree_with_the_ledger(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), upstream.model("down", "status=500", fallbacks=["fast"])))
    ids = [one.chat(model="fast", stream=stream).headers["x-request-id"] for stream in (False, True)]
    ids.append(one.chat(model="down").headers["x-request-id"])
    assert one.chat(model="no-such-model-of-anybody").status_code == 404
    rows = [one.row(one_id) for one_id in ids]
    found = until(lambda: _settled(samples(one), 3), "three requests are counted")
    assert found["proxy_requests_total", "default", "fast", "ok"] == 3
    assert found["proxy_requests_total", "default", "none", "error"] == 1
    assert found["proxy_tokens_total", "fast", "prompt"] == sum(row["prompt_tokens"] for row in rows)
    assert found["proxy_tokens_total", "fast", "completion"] == sum(row["completion_tokens"] for row in rows)
    assert found["proxy_cost_usd_total", "default", "fast"] == pytest.approx(
        sum(row["cost_usd"] for row in rows)
    )
    assert found["proxy_attempts_total", "fast#1", "ok"] == 3
    assert found["proxy_attempts_total", "down#1", "transient"] >= 1
    assert found["proxy_time_to_first_token_seconds_count",] == 1
    assert found["proxy_cooldown", "fast#1"] == 0
    assert found["proxy_config_loaded_timestamp_seconds",] > 1e9
    assert "no-such-model" not in one.admin("GET", "/metrics").text


def _settled(found: dict[tuple[Any, ...], float], count: int) -> dict[tuple[Any, ...], float] | None:
    return found if found.get(("proxy_requests_total", "default", "fast", "ok")) == count else None


def test_a_cooldown_and_a_refusal_are_counted(proxy: ProxyFactory, upstream: Upstream) -> None:
    limits = {"key": {"rpm_limit": 2}}
    one = proxy(config(upstream.model("locked", "status=401"), limits=limits))
    statuses = [one.chat(model="locked").status_code for _ in range(3)]
    assert statuses == [502, 502, 429]
    found = until(lambda: samples(one), "a page")
    assert found["proxy_cooldown", "locked#1"] == 1
    assert found["proxy_limited_total", "key", "requests"] == 1


def test_successful_and_failed_reloads_are_counted(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(
        config(upstream.model("fast")),
        module="tests.support.fast_reload_server",
        env={"PYTHONPATH": str(ROOT)},
    )
    one.save(config(upstream.model("fast"), upstream.model("more")))
    until(lambda: samples(one)["proxy_config_reload_total", "ok"] == 1, "the reload is counted")
    one.save("models: 7")
    until(lambda: samples(one)["proxy_config_reload_total", "error"] == 1, "the refusal is counted")
    assert samples(one)["proxy_cooldown", "more#1"] == 0


@pytest.fixture(scope="module")
def public(module_proxy: ProxyFactory, upstream_process: Upstream) -> Proxy:
    return module_proxy(config(upstream_process.model("fast"), metrics={"public": True}))


def test_the_page_needs_the_master_key_unless_public(
    proxy: ProxyFactory, public: Proxy, upstream: Upstream
) -> None:
    closed = proxy(config(upstream.model("fast")))
    for path in ("/metrics", "/v1/metrics"):
        assert closed.client.get(path).status_code == 401
        assert closed.client.get(path, headers=closed.auth).status_code == 403
        assert closed.admin("GET", path).status_code == 200
    for path in ("/metrics", "/v1/metrics"):
        assert public.client.get(path).status_code == 200
    page = public.client.get("/metrics").text
    shown = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    assert shown >= NAMES


def test_openmetrics_is_served_to_prometheus(public: Proxy) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
    answer = httpx2.get(public.url + "/metrics", headers={"accept": accept}, **LOOPBACK)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_shadow_limit_is_counted_and_logged_only(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), limits={"project": {"rpm_limit": 1, "shadow": True}}))
    answers = [one.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert samples(one)["proxy_limited_total", "project", "requests"] == 2
    ids = [answer.headers["x-request-id"] for answer in answers]

    def logged() -> list[list[str]] | None:
        rows_by_id = {
            line.get("request_id"): line["shadowed"] for line in one.log_lines() if "shadowed" in line
        }
        return [rows_by_id[one_id] for one_id in ids] if rows_by_id.keys() >= set(ids) else None

    assert until(logged, "three lines") == [[], ["project:requests"], ["project:requests"]]
