"""Every agent finishes a task over every kind of upstream, calling a tool where the model can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents import AGENTS, Agent
from tests.clients.anthropic_upstream import serving
from tests.clients.conftest import RunAgent
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import PRICE, Upstream
from tests.support.upstream.shell import OUTPUT

each_agent = pytest.mark.parametrize("agent", AGENTS, indirect=True)


@pytest.fixture(scope="module")
def anthropic_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, anthropic_url: str, module_proxy: ProxyFactory) -> Proxy:
    claude: dict[str, Any] = {
        "name": "shell-anthropic",
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
    }
    return module_proxy(
        config(
            upstream_process.model("shell-openai", "shell"),
            {**claude, "base_url": anthropic_url, "api_key": "sk-ant-of-the-tests", "price": PRICE},
            {"name": "mock", "provider": "mock"},
        )
    )


def rows_of(served: Proxy, key: str) -> list[dict[str, Any]]:
    return [row for row in served.rows() if row["key_id"] == key]


@each_agent
@pytest.mark.parametrize("model", ["shell-openai", "shell-anthropic"])
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
