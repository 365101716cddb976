"""Tools that agents offer only with models that they know, or in a form of their own: called, run and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.clients.agents import AGENTS, Agent
from tests.clients.conftest import RunAgent
from tests.support.proxy_process import ProxyFactory, config
from tests.support.upstream.process import Upstream

PATCH = "*** Begin Patch\n*** Add File: made.txt\n+made by a patch\n*** End Patch\n"


class Case(NamedTuple):
    agent: str
    model: str
    tool: str
    arguments: Mapping[str, Any]
    returned: str


CASES = (
    Case("codex", "gpt-5.5", "apply_patch", {"input": PATCH}, "A made.txt"),
    Case("codex", "gpt-6.2-sol", "exec", {"input": 'text("in code mode " + (40 + 2));'}, "in code mode 42"),
    Case(
        "claude-code",
        "claude-opus-5-5",
        "ToolSearch",
        {"query": "select:WebSearch"},
        "Tool loaded: WebSearch",
    ),
    Case("claude-code", "claude-opus-5-5", "Read", {"file_path": "/etc/passwd", "limit": 1}, "root:"),
    Case(
        "claude-code", "claude-opus-5-5", "Read", {"file_path": "/missing.png"}, "Error: File does not exist"
    ),
)


@pytest.mark.parametrize(
    ("agent", "case"),
    [pytest.param(one.agent, one, id=f"{one.agent}-{one.model}-{one.tool}") for one in CASES],
    indirect=["agent"],
)
def test_a_tool_of_its_own_is_called(
    upstream: Upstream, proxy: ProxyFactory, agent: Agent, run: RunAgent, case: Case
) -> None:
    assert agent is AGENTS[case.agent]
    call = quote(f"{case.tool}{json.dumps(case.arguments)}")
    served = proxy(
        config(upstream.model("coder", f"call={call}"), aliases={"claude-*": "coder", "gpt-*": "coder"})
    )
    done = run(served, case.model, served.key)
    assert done.code == 0, done.output
    assert case.returned in done.output
    assert done.requests == 2
