"""Agents for the tests to run, and a summary of what they did: the record of a run of `scripts/test --clients`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clients.agents import AGENTS, NO_ENV, RUN_SECONDS, Agent, Run
from tests.clients.packages import NODE
from tests.support.processes import until
from tests.support.proxy_process import Proxy

PROPERTY = "agent"
QUIET_SECONDS = 0.7
RunAgent = Callable[..., Run]


@pytest.fixture
def agent(request: pytest.FixtureRequest) -> Agent:
    """The agent that a test is parametrized with, by name."""
    one = AGENTS[request.param]
    for package in (NODE, one.package):
        if not package.path.exists():
            pytest.skip(f"{package.name}@{package.version} is not installed: run scripts/test --clients")
    return one


@pytest.fixture
def run(
    agent: Agent, request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[..., None]
) -> RunAgent:
    """Runs the agent against a proxy, and records how it went."""

    def run_agent(
        served: Proxy,
        model: str,
        key: str,
        *,
        within: float = RUN_SECONDS,
        arguments: tuple[str, ...] = (),
        edits: Mapping[str, str] | None = None,
        env: Mapping[str, str] = NO_ENV,
    ) -> Run:
        before = len(requests(served, agent.endpoint))
        asked = replace(agent, arguments=arguments or agent.arguments, edits={**agent.edits, **(edits or {})})
        done = asked.run(tmp_path, served, model, key=key, within=within, env=env)
        made = len(all_requests(served, agent.endpoint)) - before
        facts = f"{agent.package.version:<9} {agent.endpoint:<16} {made:2} requests {done.seconds:6.1f} s"
        test = request.node.originalname.removeprefix("test_").replace("_", " ")
        record_property(PROPERTY, f"{test:<49} {request.node.callspec.id:<36} {facts}")
        return replace(done, requests=made)

    return run_agent


def all_requests(served: Proxy, endpoint: str) -> list[dict[str, Any]]:
    """`requests`, once no line has been added for a while: a busy machine writes them after the agent has ended."""
    until(lambda: served.admin("GET", "/health").json()["running"] == 0, "the end of all requests")
    found = requests(served, endpoint)
    while True:
        time.sleep(QUIET_SECONDS)
        before, found = found, requests(served, endpoint)
        if len(found) == len(before):
            return found


def requests(served: Proxy, endpoint: str) -> list[dict[str, Any]]:
    """The log lines of the requests to an endpoint, refused ones included."""
    return [line for line in served.log_lines() if line.get("endpoint") == endpoint]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{outcome:<7} {value}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if lines:
        terminalreporter.section("agents")
        terminalreporter.write_line("\n".join(lines))
