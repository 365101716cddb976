"""A rolling update: the servers of an installation restart one after the other while clients send requests."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.support.postgres import Databases
from tests.support.processes import LOOPBACK
from tests.support.proxy_process import Proxy, ProxyFactory, keys

pytestmark = pytest.mark.one_process("it looks at, or stops, one process")

CONFIG = """
models:
  - {name: mock, provider: mock, price: {input: 1, output: 20}}
projects:
  team: {limits: {max_budget: 100, max_parallel_requests: 100}}
server: {drain: 10s}
"""
CLIENTS = 4
BETWEEN_SECONDS = 1.0


class Balancer:
    """Sends each request to a server that is ready, in turns; one that does not accept connections is passed over."""

    def __init__(self, servers: list[Proxy], key: str) -> None:
        self.ready = list(servers)
        self._key = key
        self._turn = 0
        self.statuses: list[int] = []
        self.stop = threading.Event()

    def client(self) -> None:
        while not self.stop.is_set():
            self.statuses.append(self._ask())

    def _ask(self) -> int:
        for _ in range(10):
            self._turn += 1
            server = self.ready[self._turn % len(self.ready)]
            try:
                return self._answer(server)
            except httpx2.ConnectError:
                time.sleep(0.02)
        return 0

    def _answer(self, server: Proxy) -> int:
        body = {"model": "mock", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
        return httpx2.post(
            f"{server.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {self._key}"},
            json=body,
            timeout=30,
            **LOOPBACK,
        ).status_code


def test_no_request_fails_while_servers_restart_one_after_the_other(
    proxy: ProxyFactory, postgres_databases: Databases
) -> None:
    address = postgres_databases.empty()
    servers = [proxy(CONFIG, database=address) for _ in range(3)]
    balancer = Balancer(servers, servers[0].new_key("team")["key"])
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(balancer.client) for _ in range(CLIENTS)]
        try:
            for server in servers:
                time.sleep(BETWEEN_SECONDS)
                balancer.ready = [one for one in servers if one is not server]
                server.stop()
                server.start()
                balancer.ready = list(servers)
            time.sleep(BETWEEN_SECONDS)
        finally:
            balancer.stop.set()
        for client in clients:
            client.result(60)
    assert len(balancer.statuses) > 20
    assert set(balancer.statuses) == {200}
    assert servers[0].admin("GET", "/spend").json()["total_requests"] == len(balancer.statuses)
    assert json.loads(keys(address, "reconcile", "--json").stdout)["differences"] == []
