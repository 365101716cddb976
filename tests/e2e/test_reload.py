"""proxy.yaml edited under a running server: good files are in force soon, bad ones change nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.forked import run_forked
from tests.support.processes import ROOT, environment, until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

WITHIN = 20.0
"""Seconds: looked at every second, read twice 200 ms apart, built, swapped; the rest is for a busy machine."""
HASTY = {"module": "tests.support.fast_reload_server", "env": {"PYTHONPATH": str(ROOT)}}


def readiness(served: Proxy) -> dict[str, Any]:
    answer = served.client.get("/health/readiness")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["config"]
    return found


def rewrite(served: Proxy, text: str) -> str:
    """Saves a new file and waits until it is in force; its digest."""
    before = readiness(served)["digest"]
    served.save(text)
    return until(lambda: (d := readiness(served)["digest"]) != before and d, "the new file", within=WITHIN)


@pytest.fixture(scope="module")
def hasty(module_proxy: ProxyFactory, upstream_process: Upstream) -> Proxy:
    """The server, but looking at its file all the time."""
    return module_proxy(first(upstream_process), **HASTY)


@pytest.fixture
def served(hasty: Proxy, upstream: Upstream) -> Proxy:
    if hasty.config_path.read_text() != first(upstream):
        rewrite(hasty, first(upstream))
    return hasty


def first(upstream: Upstream) -> str:
    return config(upstream.model("old"), upstream.model("other"))


def asked(served: Proxy, **body: Any) -> Mapping[str, str]:
    answer = served.chat(**body)
    assert answer.status_code == 200, answer.text
    return answer.headers


def test_the_digest_is_keyed_per_installation_and_survives_a_restart(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    served, other = proxy(first(upstream)), proxy(first(upstream))
    digest = readiness(served)["digest"]
    text = served.config_path.read_bytes()
    assert digest != readiness(other)["digest"], "it proves nothing about what is in the file"
    assert digest != hashlib.sha256(text).hexdigest()[: len(digest)]
    explained = [sys.executable, "-m", "codellama_proxy", "explain", "--project", "a", "--json"]
    explained += ["--config", str(served.config_path), "--database", str(served.database)]
    done = run_forked(explained, env=environment())
    done.check_returncode()
    assert json.loads(done.stdout)["config"] == digest
    served.stop()
    served.start()
    assert readiness(served)["digest"] == digest


def test_saving_the_file_adds_reorders_and_removes_models(proxy: ProxyFactory, upstream: Upstream) -> None:
    model = upstream.model
    served = proxy(first(upstream))
    at_start = asked(served)
    assert at_start["x-proxy-model"] == "old"
    assert served.admin("GET", "/health").json()["config"]["changes"] == []
    assert served.chat(model="new").status_code == 404

    digest = rewrite(served, config(model("new"), model("old"), model("other")))
    assert asked(served, model="new")["x-proxy-model"] == "new"
    answer = asked(served)
    assert answer["x-proxy-model"] == "new", "the first entry is the default"
    assert answer["x-proxy-config"] == digest != at_start["x-proxy-config"]

    rewrite(served, config(model("other"), model("new")))
    assert served.chat(model="old").status_code == 404
    listed = served.client.get("/v1/models", headers=served.auth).json()["data"]
    assert [one["id"] for one in listed] == ["other", "new"]
    assert "models" in served.log()
    assert "sk-upstream-secret" not in served.log()


def test_an_invalid_file_changes_nothing_and_is_reported(served: Proxy, upstream: Upstream) -> None:
    before = readiness(served)
    assert not before["error"]
    served.save("models:\n  - name: x\n    provider: mock\n    wieght: 2\n")
    error = until(lambda: readiness(served)["error"], "the problem shows", within=WITHIN)
    assert "4" in json.dumps(error)
    assert "wieght" in json.dumps(error)
    assert readiness(served)["digest"] == before["digest"]
    assert asked(served)["x-proxy-model"] == "old"
    until(lambda: "wieght" in served.log(), "the log line")

    rewrite(served, config(upstream.model("mended")))
    assert not readiness(served)["error"]
    assert asked(served)["x-proxy-model"] == "mended"


def test_a_missing_file_changes_nothing(served: Proxy, upstream: Upstream) -> None:
    served.config_path.unlink()
    until(lambda: readiness(served)["error"], "the problem shows", within=WITHIN)
    assert asked(served)["x-proxy-model"] == "old"
    rewrite(served, config(upstream.model("back")))
    assert asked(served)["x-proxy-model"] == "back"


def test_a_stream_keeps_the_configuration_it_started_with(served: Proxy, upstream: Upstream) -> None:
    rewrite(served, config(upstream.model("streaming", "gate=2")))
    body = {"model": "streaming", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with Wire(served.port) as wire:
        wire.send(request("/v1/chat/completions", body, **served.auth))
        lines = wire.lines()
        until(lambda: b"streaming-1" in next(lines), "the tokens before the gate")
        rewrite(served, config(upstream.model("later")))
        assert served.chat(model="streaming").status_code == 404
        assert asked(served)["x-proxy-model"] == "later"
        upstream.open_gate("streaming")
        rest = b"".join(lines)
    assert b"streaming-7" in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    rows = until(
        lambda: [row for row in served.rows(model="streaming") if row["status"] == "ok"], "the stream's row"
    )
    assert rows[0]["config"] != served.rows(model="later")[0]["config"]


def test_counters_survive_a_reload(proxy: ProxyFactory, upstream: Upstream) -> None:
    limits = {"key": {"rpm_limit": 2}}
    served = proxy(config(upstream.model("one"), limits=limits), **HASTY)
    asked(served)
    asked(served)
    assert served.chat().status_code == 429
    rewrite(served, config(upstream.model("two"), limits=limits))
    answer = served.chat()
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    rewrite(served, config(upstream.model("two"), limits={"key": {"rpm_limit": None}}))
    assert asked(served)["x-proxy-model"] == "two"


def test_health_shows_what_the_last_reload_changed(served: Proxy, upstream: Upstream) -> None:
    rewrite(served, config(upstream.model("old"), upstream.model("other"), upstream.model("third")))
    assert served.admin("GET", "/health").json()["config"]["changes"] == ["models: +third"]


def test_a_start_with_an_invalid_file_needs_on_invalid_last_good(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    def named(name: str) -> str:
        return config(upstream.model(name, api_key="${UPSTREAM_KEY}"))

    env = {"PROXY_ON_INVALID": "last-good", "UPSTREAM_KEY": "sk-upstream-secret"}
    served = proxy(named("old"), env=env)
    rewrite(served, named("good"))
    served.stop()
    served.config_path.write_text("models: [\n")
    refused = subprocess.run(
        [*served.command(), "--on-invalid", "refuse"],
        env=environment(**env),
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert refused.returncode == 1
    assert f"{served.config_path}:2:1: not YAML" in refused.stderr

    served.start()
    assert asked(served)["x-proxy-model"] == "good"
    config_now = readiness(served)
    assert (config_now["stale"], "not YAML" in config_now["error"]) == (True, True)
    loud = [line for line in served.log_lines() if line["level"] == "error"]
    assert "is invalid; serving the last good configuration" in loud[0]["message"]
    rewrite(served, config(upstream.model("mended")))
    assert asked(served)["x-proxy-model"] == "mended"
    assert not readiness(served)["stale"]
