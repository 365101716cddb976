"""Agents with the models that they know: other fields and tools than for unknown names, sent to a model by an alias."""

from __future__ import annotations

import pytest

from tests.clients.agents import Agent
from tests.clients.conftest import RunAgent
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream
from tests.support.upstream.shell import OUTPUT

CONTEXT = ("--dangerously-skip-permissions", "-p", "/context")


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    aliases = {"claude-*": "coder", "gpt-*": "coder"}
    return module_proxy(config(upstream_process.model("coder", "shell"), aliases=aliases))


@pytest.mark.parametrize(
    ("agent", "model"),
    [
        ("claude-code", "claude-opus-5-5"),
        ("claude-code", "sonnet"),
        ("claude-code", "haiku"),
        ("codex", "gpt-5.5"),
    ],
    indirect=["agent"],
)
def test_an_alias_serves_the_models_that_agents_know(
    served: Proxy, agent: Agent, run: RunAgent, model: str, upstream: Upstream
) -> None:
    done = run(served, model, served.key)
    assert done.code == 0, done.output
    assert f"The tool returned {OUTPUT}." in done.output
    assert upstream.journal.models() == ["coder"] * done.requests
    assert {row["model"] for row in served.rows()} == {"coder"}


@pytest.mark.parametrize("agent", ["claude-code"], indirect=True)
def test_the_context_of_claude_code_is_counted(served: Proxy, agent: Agent, run: RunAgent) -> None:
    before = len(served.rows())
    done = run(served, "coder", served.key, arguments=CONTEXT)
    assert done.code == 0, done.output
    assert "Context Usage" in done.output
    counted = [line for line in served.log_lines() if "count_tokens" in str(line.get("path"))]
    assert {line["http_status"] for line in counted} == {200}
    assert len(served.rows()) == before
