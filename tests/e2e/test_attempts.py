"""Money over real sockets: budgets hold over all attempts, and calls are finished for clients that left."""

from __future__ import annotations

import threading

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

PRICE = {"input": 1000, "output": 2000}
"""USD a million tokens."""
MOST = 2.0


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("lost", "drop", price=PRICE, fallbacks=["half", "good"]),
            model("half", "cut=4", price=PRICE),
            model("good", price=PRICE),
            routing={"cooldown": {"failures": 1000}, "retries": 0},
        )
    )


def test_concurrent_requests_with_several_attempts_stay_within_the_budget(served: Proxy) -> None:
    made = served.new_key(max_budget=MOST)
    auth = {"authorization": f"Bearer {made['key']}"}
    body = {"model": "lost", "max_tokens": 50, "messages": [{"role": "user", "content": "x" * 400}]}
    highest: list[float] = []

    def ask() -> None:
        for _ in range(5):
            served.client.post("/v1/chat/completions", json=body, headers=auth)
            scopes = served.client.get("/key/info", headers=auth).json()["scopes"]
            (own,) = [scope for scope in scopes if scope["scope"] == "key"]
            highest.append(own["spend"] + own["held"])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = served.settled_rows(key_id=made["key_id"])
    assert rows
    paid = [sum(one["cost_usd"] for one in row["attempts"]) for row in rows]
    assert [row["cost_usd"] for row in rows] == pytest.approx(paid)
    assert max(highest) <= MOST
    assert sum(paid) <= MOST
    assert {one["class"] for row in rows for one in row["attempts"]} >= {"transient", "ok"}


@pytest.mark.one_process("a relay learns that a client has left only when it writes to it")
def test_an_answer_is_completed_during_the_drain_after_its_client_disconnected(
    proxy: ProxyFactory, upstream_process: Upstream
) -> None:
    own = proxy(config(upstream_process.model("leaving", "delay=0.6")))
    body = {"model": "leaving", "messages": [{"role": "user", "content": "hi"}]}
    wire = Wire(own.port).send(request("/v1/chat/completions", body, **own.auth))
    until(lambda: upstream_process.journal.requests("leaving"), "a request")
    wire.socket.close()
    assert own.stop() == 0
    own.start()
    (row,) = own.rows()
    assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "exact")
    assert row["completion_tokens"] > 0
