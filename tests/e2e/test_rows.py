"""Every request leaves one row, and its tokens and cost are what the upstream says it reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config, keys
from tests.support.raw_http import Wire, request
from tests.support.stored import rows_after_a_kill
from tests.support.upstream.process import Upstream

PRICE = {"input": 1.5, "output": 6, "cached_input": 0.15}
USD = {kind: Decimal(str(price)) for kind, price in PRICE.items()}
KINDS: dict[str, str] = {
    "plain": "ok",
    "short": "tokens=1",
    "long": "tokens=300",
    "big": "usage=123457,7891",
    "cached": "usage=1000,10,600",
    "tooling": "tools",
    "twice": "usage_twice;usage=77,11",
    "with-finish": "usage_with_finish;usage=78,12",
}
ODD: dict[str, str] = {
    "none": "no_usage",
    "null": "usage_json=null",
    "negative": 'usage_json={"prompt_tokens": -5, "completion_tokens": -1, "total_tokens": -6}',
    "fraction": 'usage_json={"prompt_tokens": -1.5, "completion_tokens": -0.5}',
    "words": 'usage_json={"prompt_tokens": "many", "completion_tokens": "few", "total_tokens": "x"}',
    "absurd": 'usage_json={"prompt_tokens": 1000000000000, "completion_tokens": 1, "total_tokens": 1}',
    "empty": "usage_json={}",
    "nothing": "usage=0,0",
    "left-out": 'usage_json={"prompt_tokens": 0, "completion_tokens": 6, "total_tokens": 6}',
}


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            *(model(name, script, price=PRICE, context_window=200_000) for name, script in KINDS.items()),
            *(model(f"odd-{name}", script, price=PRICE) for name, script in ODD.items()),
            model("free", price={"input": 0, "output": 0}),
            model("mystery", price=None),
            model("failing", "status=500", price=PRICE),
            model("rejecting", "status=400", price=PRICE),
            model("cut", "cut=4", price=PRICE),
            model("costly-try", "status=500", price=PRICE, fallbacks=["plain"]),
            model("embedding", mode="embedding", price=PRICE),
        )
    )


def cost(usage: Mapping[str, Any]) -> Decimal:
    """The bill, worked out anew: tokens times price, rounded up once to a nano-USD."""
    cached = usage["prompt_tokens_details"]["cached_tokens"] if "prompt_tokens_details" in usage else 0
    output = usage.get("completion_tokens", 0)
    millionths = (
        (usage["prompt_tokens"] - cached) * USD["input"]
        + cached * USD["cached_input"]
        + output * USD["output"]
    )
    return (millionths / 1_000_000).quantize(Decimal("1e-9"), ROUND_CEILING)


def billed(row: Mapping[str, Any]) -> Decimal:
    return Decimal(repr(row["cost_usd"])).quantize(Decimal("1e-9"))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", KINDS)
def test_a_row_has_the_reported_usage(served: Proxy, upstream: Upstream, model: str, streamed: bool) -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]} if model == "tooling" else {}
    answer = served.chat({"model": model, "stream": streamed, "user": "someone", **tools})
    assert answer.status_code == 200
    row = served.row(answer.headers["x-request-id"])
    (usage,) = upstream.journal.usages()
    assert row["prompt_tokens"] == usage["prompt_tokens"]
    assert row["completion_tokens"] == usage["completion_tokens"]
    assert row["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert row["basis"] == "exact"
    assert billed(row) == cost(usage)
    if not streamed:
        assert Decimal(answer.headers["x-proxy-cost-usd"]) == cost(usage)
    assert {name: row[name] for name in ("status", "http_status", "model", "deployment", "user")} == {
        "status": "ok",
        "http_status": 200,
        "model": model,
        "deployment": f"{model}#1",
        "user": "someone",
    }
    assert row["stream"] is streamed
    assert row["key_id"] == served.key_id
    assert row["project"] == "default"
    assert row["upstream_model"] == f"{model}/{KINDS[model]}"
    assert row["config"] == answer.headers["x-proxy-config"]
    assert row["total_ms"] > 0


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_implausible_usage_is_replaced_by_an_estimate(served: Proxy, name: str, streamed: bool) -> None:
    answer = served.chat({"model": f"odd-{name}", "stream": streamed})
    assert answer.status_code == 200
    row = served.row(answer.headers["x-request-id"])
    assert row["basis"] == "estimated"
    assert 0 < row["prompt_tokens"] < 10_000
    assert 0 < row["completion_tokens"] < 1000
    assert row["cost_usd"] > 0


@pytest.mark.parametrize(
    ("model", "status", "http_status"), [("failing", "error", 502), ("rejecting", "error", 400)]
)
def test_a_failed_request_has_a_row_with_only_its_actual_cost(
    served: Proxy, model: str, status: str, http_status: int
) -> None:
    answer = served.chat(model=model)
    row = served.row(answer.headers["x-request-id"])
    assert (row["status"], row["http_status"], row["completion_tokens"]) == (status, http_status, 0)
    assert row["attempts"]


def test_a_cut_stream_is_booked_for_the_delivered_part(served: Proxy) -> None:
    answer = served.chat(model="cut", stream=True)
    row = served.row(answer.headers["x-request-id"])
    assert row["status"] == "error"
    assert row["basis"] == "estimated"
    assert row["completion_tokens"] >= 4
    assert row["cost_usd"] > 0


def test_a_free_model_costs_zero_and_not_null(served: Proxy) -> None:
    answer = served.chat(model="free")
    assert served.row(answer.headers["x-request-id"])["cost_usd"] == 0


def test_an_unknown_price_is_null_and_not_zero(served: Proxy) -> None:
    answer = served.chat(model="mystery")
    assert served.row(answer.headers["x-request-id"])["cost_usd"] is None
    grouped = served.admin("GET", "/spend", params={"group_by": "model", "model": "mystery"}).json()
    assert grouped["data"][0]["unpriced_requests"] >= 1


def test_a_retried_request_is_billed_once(served: Proxy, upstream: Upstream) -> None:
    answer = served.chat(model="costly-try")
    row = served.row(answer.headers["x-request-id"])
    assert billed(row) == cost(upstream.journal.usages("plain")[0])


def test_embeddings_are_booked(served: Proxy, upstream: Upstream) -> None:
    answer = served.client.post(
        "/v1/embeddings", json={"model": "embedding", "input": "x"}, headers=served.auth
    )
    assert answer.status_code == 200
    row = served.row(answer.headers["x-request-id"])
    (usage,) = upstream.journal.usages()
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], 0)
    assert billed(row) == cost(usage)


def test_concurrent_requests_add_up(served: Proxy, upstream: Upstream) -> None:
    key = served.new_key("crowd")["key"]
    headers = {"authorization": f"Bearer {key}"}

    def ask(i: int) -> str:
        body = {
            "model": ("plain", "cached", "long")[i % 3],
            "stream": i % 2 == 0,
            "messages": [{"role": "user", "content": "x" * i}],
        }
        answer = served.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200
        return answer.headers["x-request-id"]

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(ask, range(60)))
    rows = until(
        lambda: len(found := served.rows(project="crowd", status="ok")) == 60 and found, "60 settled rows"
    )
    assert sorted(row["request_id"] for row in rows) == sorted(ids)
    usages = upstream.journal.usages()
    assert sorted((u["prompt_tokens"], u["completion_tokens"]) for u in usages) == sorted(
        (row["prompt_tokens"], row["completion_tokens"]) for row in rows
    )
    total = sum(map(cost, usages))
    assert sum(map(billed, rows)) == total
    spend = served.admin("GET", "/spend", params={"group_by": "project", "project": "crowd"}).json()
    assert spend["total_requests"] == 60
    assert Decimal(repr(spend["total_cost_usd"])).quantize(Decimal("1e-9")) == total
    own = served.client.get("/spend", headers=headers).json()
    assert own["total_requests"] == 60, "a key sees its own project"


def test_rows_are_filtered_and_paged(served: Proxy) -> None:
    for _ in range(5):
        served.chat(model="short", user="pager")
    whole = served.admin("GET", "/spend/logs", params={"user": "pager", "size": 1000}).json()
    assert whole["total"] == len(whole["data"])
    paged = [
        served.admin("GET", "/spend/logs", params={"user": "pager", "size": 2, "page": page}).json()["data"]
        for page in (1, 2, 3)
    ]
    assert [row["request_id"] for page in paged for row in page][:5] == [
        row["request_id"] for row in whole["data"]
    ][:5]
    stamps = [row["created_at"] for row in whole["data"]]
    assert stamps == sorted(stamps, reverse=True), "newest first"
    assert {row["model"] for row in served.rows(model="short")} == {"short"}
    for bad in ({"page": 0}, {"size": 1001}, {"start": "yesterday-ish"}):
        assert served.admin("GET", "/spend/logs", params=bad).status_code == 400


def test_a_request_is_visible_only_to_its_project(served: Proxy) -> None:
    answer = served.chat(model="plain")
    path = f"/requests/{answer.headers['x-request-id']}"
    served.row(answer.headers["x-request-id"])
    assert served.client.get(path, headers=served.auth).json()["model"] == "plain"
    assert served.admin("GET", path).status_code == 200
    other = {"authorization": f"Bearer {served.new_key('strangers')['key']}"}
    assert served.client.get(path, headers=other).status_code == 404


def test_every_request_has_a_log_line_without_content(served: Proxy) -> None:
    answer = served.chat(model="plain", prompt="a very secret question")
    number = answer.headers["x-request-id"]
    line = until(lambda: [line for line in served.log_lines() if number in json.dumps(line)], "the log line")[
        0
    ]
    assert "very secret" not in served.log()
    assert "plain-0" not in served.log()
    assert "default" in json.dumps(line)


def test_the_ledger_reconciles(served: Proxy) -> None:
    until(lambda: not served.rows(status="held"), "nothing held")
    done = keys(served.database, "reconcile")
    assert done.returncode == 0


@pytest.mark.parametrize("endpoint", ["chat/completions", "messages", "responses"])
def test_sigkill_loses_no_row_and_releases_every_hold(
    proxy: ProxyFactory, upstream: Upstream, endpoint: str
) -> None:
    text = config(
        upstream.model("plain", price=PRICE),
        upstream.model("hanging", "hang", price=PRICE),
        upstream.model("mid", "gate=3", price=PRICE),
        limits={"project": {"max_budget": 100}},
    )
    served = proxy(text)
    answered = [served.chat(model="plain").headers["x-request-id"] for _ in range(10)]
    talk = [{"role": "user", "content": "hi"}]
    body = {"input": talk} if endpoint == "responses" else {"messages": talk, "max_tokens": 100}
    with Wire(served.port) as one, Wire(served.port) as two:
        one.send(request(f"/v1/{endpoint}", {**body, "model": "hanging"}, **served.auth))
        two.send(request(f"/v1/{endpoint}", {**body, "model": "mid", "stream": True}, **served.auth))
        until(lambda: len(upstream.journal.requests()) == 12, "both arrive upstream")
        served.kill()
    served.start()
    rows = rows_after_a_kill(served)
    assert len(rows) == 12
    by_id = {row["request_id"]: row for row in rows}
    usages = upstream.journal.usages("plain")
    for number, usage in zip(answered, usages, strict=True):
        assert by_id[number]["status"] == "ok"
        assert billed(by_id[number]) == cost(usage)
    orphans = [row for row in rows if row["request_id"] not in answered]
    assert {row["status"] for row in orphans} == {"error"}
    assert {row["basis"] for row in orphans} == {"crash_estimate"}
    assert {row["endpoint"] for row in orphans} == {endpoint}
    assert all(row["cost_usd"] > 0 for row in orphans)
    assert {row["model"] for row in orphans} == {"hanging", "mid"}
    for row in orphans:
        assert row["deployment"] == f"{row['model']}#1"
        (attempt,) = row["attempts"]
        assert (attempt["deployment"], attempt["basis"]) == (row["deployment"], "crash_estimate")
        assert attempt["cost_usd"] == row["cost_usd"]
    assert keys(served.database, "reconcile").returncode == 0
