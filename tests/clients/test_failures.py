"""What people see when something is wrong: one clear line, without a storm of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest

from tests.clients.agents import AGENTS, Agent
from tests.clients.conftest import RunAgent
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.upstream.process import Upstream
from tests.support.upstream.shell import OUTPUT

each_agent = pytest.mark.parametrize("agent", AGENTS, indirect=True)

FINISHED = f"The tool returned {OUTPUT}."
WRONG_KEY, UNKNOWN_MODEL, NO_BUDGET = "Incorrect API key provided", "no-such-model", "Budget exceeded"
BROKEN = "The upstream could not be reached"
MAX_TIMES = 4
"""How often one message may be printed: some agents show it in a log, in an event and as the result."""


class Patience(NamedTuple):
    """How many requests an agent makes before it gives up."""

    wrong_key: int = 3
    broken: int = 8


PATIENCE: Mapping[str, Patience] = {"codex": Patience(wrong_key=6)}
"""Codex retries each 401 five times, whatever the headers say."""
OWN_WORDS = {"codex": "Quota exceeded"}
"""Codex has a message of its own for `insufficient_quota`."""
WAITING = {"opencode-messages", "qwen-code-messages"}
"""Agents that take every 429 for a busy server, `x-should-retry: false` or not, and wait longer each time."""


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("shell", "shell"),
            *(model(f"busy-{name}", "status=429;retry_after=1|shell") for name in AGENTS),
            *(model(f"cut-{name}", "cut=3|shell") for name in AGENTS),
            model("cut", "cut=3"),
            routing={"max_attempts": 1, "cooldown": {"failures": 1000}},
        )
    )


@pytest.fixture
def name(agent: Agent) -> str:
    return next(name for name, one in AGENTS.items() if one is agent)


@each_agent
def test_a_wrong_key_is_named(served: Proxy, run: RunAgent, name: str) -> None:
    done = run(served, "shell", "sk-wrong")
    assert 1 <= done.output.count(WRONG_KEY) <= MAX_TIMES, done.output
    assert 1 <= done.requests <= PATIENCE.get(name, Patience()).wrong_key, done.output


@each_agent
def test_an_unknown_model_is_named(served: Proxy, run: RunAgent) -> None:
    done = run(served, UNKNOWN_MODEL, served.key)
    assert UNKNOWN_MODEL in done.output
    assert FINISHED not in done.output
    assert 1 <= done.requests <= 3, done.output


@each_agent
def test_an_exhausted_budget_is_named(served: Proxy, run: RunAgent, name: str) -> None:
    key = served.new_key(max_budget=1e-7)["key"]
    if name in WAITING:
        done = run(served, "shell", key, within=45)
        assert 1 <= done.requests <= 10, done.output
    else:
        done = run(served, "shell", key)
        assert 1 <= done.output.count(OWN_WORDS.get(name, NO_BUDGET)) <= MAX_TIMES, done.output
        assert 1 <= done.requests <= 3, done.output


@each_agent
def test_a_busy_upstream_is_waited_for(served: Proxy, run: RunAgent, name: str) -> None:
    done = run(served, f"busy-{name}", served.key)
    assert FINISHED in done.output
    assert done.requests <= 6, done.output


@each_agent
def test_a_broken_stream_is_reported_or_repeated(served: Proxy, run: RunAgent, name: str) -> None:
    done = run(served, f"cut-{name}", served.key)
    assert FINISHED in done.output or 1 <= done.output.count(BROKEN) <= MAX_TIMES, done.output
    assert done.requests <= 6, done.output


@each_agent
def test_streams_that_always_break_end_with_a_message(served: Proxy, run: RunAgent, name: str) -> None:
    done = run(served, "cut", served.key)
    assert 1 <= done.output.count(BROKEN) <= MAX_TIMES, done.output
    assert 1 <= done.requests <= PATIENCE.get(name, Patience()).broken, done.output
