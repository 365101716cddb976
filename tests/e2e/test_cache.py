"""The cache of the real server: over restarts, purged from outside, shared by its clients at the same time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.forked import run_forked
from tests.support.processes import environment, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

ON = {"enabled": True}


def command(one: Proxy, *words: str) -> Any:
    """`codellama-proxy cache ...` on the server's database, as JSON."""
    line = ["cache", *words, "--database", str(one.database), "--json"]
    done = run_forked([sys.executable, "-m", "codellama_proxy", *line], env=environment())
    done.check_returncode()
    return json.loads(done.stdout)


@pytest.mark.one_process("each server has a response cache, and calls in flight, of its own")
def test_an_answer_survives_a_restart_but_not_a_purge(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), cache=ON))
    first = one.chat()
    assert first.headers["x-proxy-cache"] == "miss"
    one.stop()
    one.start()
    again = one.chat()
    assert again.headers["x-proxy-cache"] == "hit"
    assert again.json() == first.json()
    row = one.row(again.headers["x-request-id"])
    assert (row["basis"], row["cache"], row["cost_usd"], row["attempts"]) == ("cached", "hit", 0, [])

    kept = command(one, "stats")
    assert (kept["answers"], kept["data"][0]["model"]) == (1, "fast")
    assert command(one, "purge", "--project", "somebody-else") == {"purged": 0}
    assert command(one, "purge", "--project", one.project) == {"purged": 1}
    until(lambda: one.chat().headers["x-proxy-cache"] == "miss", "the purge is noticed")
    assert len(upstream.journal.requests()) == 2


@pytest.mark.one_process("each server has a response cache, and calls in flight, of its own")
def test_concurrent_identical_requests_share_one_call(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("slow", "first=0.5"), cache=ON))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda streamed: one.chat(stream=streamed), [True, False] * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert len(upstream.journal.requests()) == 1
    assert sorted(answer.headers["x-proxy-cache"] for answer in answers) == ["hit"] * 7 + ["miss"]
    metrics = one.admin("GET", "/metrics").text
    assert 'proxy_cache_total{result="hit"} 7.0' in metrics
    assert 'proxy_cache_total{result="miss"} 1.0' in metrics


@pytest.mark.one_process("each server has a response cache, and calls in flight, of its own")
def test_a_request_that_joins_a_stream_gets_at_once_what_has_arrived(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    one = proxy(config(upstream.model("paced", "tokens=40;every=0.01;gate=30"), cache=ON))
    body = {"model": "paced", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    asked = request("/v1/chat/completions", body, **one.auth)
    with Wire(one.port) as leading, Wire(one.port) as joining:
        texts = []
        for wire in (leading, joining):
            lines = wire.send(asked).lines()
            texts.append((lines, until_said(lines, "paced-29")))
        upstream.open_gate("paced")
        whole = ["".join([*said, *tokens(lines)]) for lines, said in texts]
    assert whole == [" ".join(f"paced-{number}" for number in range(40))] * 2
    with Wire(one.port) as late:
        assert "".join(tokens(late.send(asked).lines())) == whole[0]
    assert len(upstream.journal.requests()) == 1


def until_said(lines: Iterator[bytes], word: str) -> list[str]:
    """The text up to the chunk with this word."""
    said: list[str] = []
    while word not in "".join(said):
        said += tokens([next(lines)])
    return said


def tokens(lines: Iterable[bytes]) -> list[str]:
    chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    return [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.one_process("each server has a response cache, and calls in flight, of its own")
def test_a_damaged_cache_file_does_not_fail_requests(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), cache=ON), allow=("cache",))
    one.chat()
    one.stop()
    path = one.database.with_name(f"{one.database.stem}-cache{one.database.suffix}")
    path.write_bytes(b"\0garbage" * 1000)
    one.start()
    assert one.chat().headers["x-proxy-cache"] == "miss"
    assert one.chat().headers["x-proxy-cache"] == "hit"


def test_cache_control_no_cache_calls_upstream(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast"), cache=ON))
    one.chat()
    body = {"messages": [{"role": "user", "content": "hi"}]}
    headers = {**one.auth, "cache-control": "no-cache"}
    answer = one.client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.headers["x-proxy-cache"] == "bypass"
    assert len(upstream.journal.requests()) == 2
