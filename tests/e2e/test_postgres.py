"""A server on a PostgreSQL database: everything that a file offers, shared by several processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from codellama_proxy import __version__
from tests.support.postgres import QUICK, Databases, PostgresServer, own_programs
from tests.support.processes import LOOPBACK, until
from tests.support.proxy_process import Proxy, ProxyFactory, keys

CONFIG = """
models:
  - {name: mock, provider: mock, price: {input: 1, output: 20}}
projects:
  team: {limits: {max_budget: 0.005, max_parallel_requests: 50}}
"""


ADMIN_PATHS = ("/spend", "/spend/logs", "/key/list", "/key/info?key_id=a", "/audit", "/requests/req_1")


@pytest.fixture
def address(postgres_databases: Databases) -> str:
    return postgres_databases.empty()


def chat(proxy: Proxy, key: str, tokens: int = 16) -> httpx2.Response:
    return httpx2.post(
        f"{proxy.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={"model": "mock", "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]},
        timeout=30,
        **LOOPBACK,
    )


def test_a_server_serves_from_an_address(proxy: ProxyFactory, address: str) -> None:
    one = proxy(CONFIG, database=address)
    assert chat(one, one.key).status_code == 200
    assert [row["status"] for row in one.settled_rows()] == ["ok"]
    assert json.loads(keys(address, "spend", "--json").stdout)["total_requests"] == 1
    assert json.loads(keys(address, "reconcile", "--json").stdout)["differences"] == []


def test_two_servers_share_keys_and_a_budget(proxy: ProxyFactory, address: str) -> None:
    first, second = proxy(CONFIG, database=address), proxy(CONFIG, database=address)
    key = first.new_key("team")["key"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: chat((first, second)[n % 2], key).status_code, range(120)))
    assert set(answers) == {200, 429}
    spent = first.admin("GET", "/spend").json()["total_cost_usd"]
    assert 0.001 < spent <= 0.005
    assert json.loads(keys(address, "reconcile", "--json").stdout)["differences"] == []


def metrics(one: Proxy) -> list[str]:
    return one.admin("GET", "/metrics").text.splitlines()


@pytest.mark.one_process("it looks at, or stops, one process")
def test_health_shows_the_processes_of_the_installation(proxy: ProxyFactory, address: str) -> None:
    first = proxy(CONFIG, database=address)
    secret = "tracking: {promptlayer: {api_key: pl_0123456789abcdef}}\n"  # so no copy of this file is kept
    proxy(CONFIG + secret, database=address)
    until(lambda: first.admin("GET", "/health").json()["configurations"] == 2, "both configurations")
    workers = first.admin("GET", "/health").json()["workers"]
    assert len(workers) == 2
    assert all(one["digest"] for one in workers)
    assert {one["version"] for one in workers} == {__version__}
    digest = first.admin("GET", "/health/readiness").json()["config"]["digest"]
    assert digest in {one["digest"] for one in workers}
    wanted = {f'proxy_workers{{config="{one["digest"]}"}} 1.0' for one in workers}
    until(lambda: wanted <= set(metrics(first)), "the processes in the metrics")
    assert "proxy_late_settlements_total 0.0" in metrics(first)


def test_a_key_blocked_at_one_server_is_refused_by_the_other(proxy: ProxyFactory, address: str) -> None:
    first, second = proxy(CONFIG, database=address), proxy(CONFIG, database=address)
    made = first.new_key()
    assert chat(second, made["key"]).status_code == 200
    assert first.admin("POST", "/key/block", json={"key_id": made["key_id"]}).status_code == 200
    # The intervals promise it within a second (tests/store/test_postgres_workers.py); the machine may be busy.
    until(lambda: chat(second, made["key"]).status_code == 401, "the refusal")


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    server = PostgresServer(own_programs(), *QUICK)
    try:
        yield server
    finally:
        server.remove()


@pytest.mark.one_process("it looks at, or stops, one process")
def test_requests_are_refused_while_the_database_is_away_and_served_again_after(proxy: ProxyFactory) -> None:
    with own_server() as server:
        one = proxy(CONFIG, database=server.address(), allow=("the store cannot write",))
        assert chat(one, one.key).status_code == 200
        server.stop()
        until(lambda: chat(one, one.key).status_code == 503, "a refusal")
        refused = chat(one, one.key)
        assert refused.json()["error"]["code"] == "accounting_unavailable"
        assert "retry-after" in refused.headers
        answers = {path: one.admin("GET", path).status_code for path in ADMIN_PATHS}
        answers["/key/generate"] = one.admin("POST", "/key/generate", json={"key_alias": "team"}).status_code
        assert answers == dict.fromkeys(answers, 503)
        assert one.admin("GET", "/health").status_code == 200
        server.start()
        until(lambda: chat(one, one.key).status_code == 200, "an answer")
        assert json.loads(keys(server.address(), "reconcile", "--json").stdout)["differences"] == []
