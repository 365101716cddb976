"""Every agent finishes a task over every kind of upstream, calling a tool where the model can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents import AGENTS, Agent
from tests.clients.conftest import RunAgent
from tests.clients.native_upstream import native_upstream
from tests.support.dialects.loopback import Server
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE, Upstream
from tests.support.upstream.shell import OUTPUT

UPSTREAMS = ("chat", "anthropic", "openai")
"""A model at /chat/completions, one at Anthropic's /messages and one that OpenAI has only at /responses."""
each_agent = pytest.mark.parametrize("agent", AGENTS, indirect=True)


@pytest.fixture(scope="module")
def native() -> Iterator[Server]:
    with native_upstream() as server:
        yield server


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, native: Server, module_proxy: ProxyFactory) -> Proxy:
    def entry(name: str, model: str) -> dict[str, Any]:
        address = {"base_url": f"{native.url}/v1", "api_key": "sk-upstream-of-the-agents"}
        return {"name": name, "provider": name, "model": model, "price": PRICE, "fallbacks": [], **address}

    return module_proxy(
        config(
            upstream_process.model("chat", "shell"),
            entry("anthropic", "claude-sonnet-4-6"),
            entry("openai", "gpt-5.5-pro"),
            {"name": "mock", "provider": "mock"},
        )
    )


def rows_of(served: Proxy, key: str) -> list[dict[str, Any]]:
    return [row for row in served.rows() if row["key_id"] == key]


@each_agent
@pytest.mark.parametrize("model", UPSTREAMS)
def test_a_tool_is_called_and_its_result_is_read(
    served: Proxy, agent: Agent, run: RunAgent, model: str
) -> None:
    key = served.new_key()
    done = run(served, model, key["key"])
    assert done.code == 0, done.output
    assert f"The tool returned {OUTPUT}." in done.output
    rows = rows_of(served, key["key_id"])
    assert 2 <= len(rows) <= 4, done.output  # some ask for a title as well
    assert {(row["endpoint"], row["status"], row["model"]) for row in rows} == {(agent.endpoint, "ok", model)}


@each_agent
def test_the_mock_is_understood(served: Proxy, agent: Agent, run: RunAgent) -> None:
    key = served.new_key()
    done = run(served, "mock", key["key"])
    assert done.code == 0, done.output
    rows = rows_of(served, key["key_id"])
    assert 1 <= len(rows) <= 4, done.output
    assert {(row["endpoint"], row["status"]) for row in rows} == {(agent.endpoint, "ok")}
