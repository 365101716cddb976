"""`serve --workers N`: several processes on one port, with one database and one set of metrics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from codellama_proxy.__main__ import main
from tests.support.postgres import Databases
from tests.support.processes import LOOPBACK, free_port, until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory

pytestmark = pytest.mark.one_process("it looks at, or stops, one process")

CONFIG = """
models:
  - {name: mock, provider: mock, price: {input: 1, output: 1}, mock: {tokens_per_second: 20}}
  - {name: quick, provider: mock, price: {input: 1, output: 1}}
  - {name: other, provider: mock, price: {input: 1, output: 1}}
server: {drain: 10s}
"""
WORKERS = 2

Start = Callable[..., Proxy]


@pytest.fixture
def start(proxy: ProxyFactory, postgres_databases: Databases) -> Start:
    def started(**more: Any) -> Proxy:
        env = {"PROXY_WORKERS": str(WORKERS)}
        return proxy(CONFIG, database=postgres_databases.empty(), env=env, launch=subprocess.Popen, **more)

    return started


def children(one: Proxy) -> list[int]:
    assert one._process is not None
    pid = one._process.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def chat(one: Proxy, **more: Any) -> httpx2.Response:
    """On a connection of its own, so that any process may get it."""
    return httpx2.post(
        f"{one.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {one.key}"},
        json={"model": "mock", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], **more},
        timeout=30,
        **LOOPBACK,
    )


def counted(one: Proxy) -> int:
    page = httpx2.get(
        f"{one.url}/metrics", headers={"authorization": f"Bearer {ADMIN}"}, timeout=30, **LOOPBACK
    ).text
    return sum(
        int(float(value)) for value in re.findall(r"^proxy_requests_total\{.*\} (\S+)$", page, re.MULTILINE)
    )


def listening(one: Proxy) -> int:
    """Sockets that accept connections on the port."""
    wanted = f":{one.port:04X} "
    return sum(wanted in line and " 0A " in line for line in Path("/proc/net/tcp").read_text().splitlines())


def test_every_process_serves_and_any_of_them_shows_the_metrics_of_all(start: Start) -> None:
    one = start()
    until(lambda: listening(one) == WORKERS, "all processes listen")
    assert len(children(one)) == WORKERS
    for _ in range(30):
        assert chat(one, model="quick").status_code == 200
    assert {counted(one) for _ in range(10)} == {30}
    assert len(one.rows()) == 30
    digest = one.admin("GET", "/health/readiness").json()["config"]["digest"]
    wanted = {f'proxy_workers{{config="{digest}"}} {WORKERS}.0', "proxy_late_settlements_total 0.0"}
    until(
        lambda: wanted <= set(one.admin("GET", "/metrics").text.splitlines()), "the processes in the metrics"
    )


def test_a_purge_of_the_cache_reaches_every_process(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    one = start()
    until(lambda: listening(one) == WORKERS, "all processes listen")

    def results(model: str) -> list[str]:
        return [
            chat(one, model=model, temperature=0, max_tokens=500).headers["x-proxy-cache"] for _ in range(40)
        ]

    for model in ("quick", "other"):
        assert results(model).count("miss") == WORKERS, "each process asked once"
    assert main(["cache", "purge", "--model", "quick", "--database", str(one.database), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"processes": WORKERS}
    found: list[str] = []

    def each_asks_again() -> bool:
        found.extend(results("quick"))
        return found.count("miss") == WORKERS

    until(each_asks_again, "the purge everywhere")
    assert set(results("quick")) == {"hit"}
    assert set(results("other")) == {"hit"}
    assert main(["cache", "stats", "--database", str(one.database)]) == 1
    assert "each process has a cache of its own" in capsys.readouterr().err


def test_a_process_that_dies_is_started_again_and_others_serve_meanwhile(start: Start) -> None:
    one = start()
    until(lambda: listening(one) == WORKERS, "all processes listen")
    before = children(one)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(children(one)) - set(before)) == 1, "another process")
    until(lambda: listening(one) == WORKERS, "all processes listen again")
    assert chat(one).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_lets_open_responses_end_and_leaves_no_process(start: Start, number: signal.Signals) -> None:
    one = start()
    until(lambda: listening(one) == WORKERS, "all processes listen")
    pids = children(one)
    with httpx2.stream(
        "POST",
        f"{one.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {one.key}"},
        json={
            "model": "mock",
            "stream": True,
            "max_tokens": 30,
            "messages": [{"role": "user", "content": "hi"}],
        },
        timeout=30,
        **LOOPBACK,
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert one._process is not None
        one._process.send_signal(number)
        assert "data: [DONE]" in list(lines)
    assert one._process.wait(30) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_processes_end_when_their_parent_is_killed(start: Start) -> None:
    one = start()
    until(lambda: listening(one) == WORKERS, "all processes listen")
    pids = children(one)
    assert one._process is not None
    one._process.kill()
    one._process.wait(10)
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "no process is left")


def test_several_workers_need_a_database_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proxy.yaml").write_text(CONFIG)
    assert main(["serve", "--workers", "2", "--port", str(free_port())]) == 1
    assert "several workers need a database server" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
