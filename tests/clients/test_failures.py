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

each_agent = pytest.mark.parametrize("agent", sorted({*AGENTS} - {"claude-code-models"}), indirect=True)

FINISHED = f"The tool returned {OUTPUT}."
WRONG_KEY, UNKNOWN_MODEL, NO_BUDGET = "Incorrect API key provided", "no-such-model", "Budget exceeded"
BROKEN = "The upstream could not be reached"
MAX_TIMES = 4
"""How often one message may be printed: some agents show it in a log, in an event and as the result."""


class Patience(NamedTuple):
    """How many requests an agent makes, with growing pauses, before it gives up."""

    wrong_key: int = 3
    budget: int = 3
    broken: int = 8


AGENTS_TRYING_ON: Mapping[str, Patience] = {
    "codex": Patience(wrong_key=6),
    "opencode": Patience(budget=12),
    "opencode-messages": Patience(budget=12),
    "opencode-responses": Patience(budget=12),
    "cline": Patience(budget=8),
    "cline-responses": Patience(budget=8),
    "qwen-code": Patience(budget=12),
    "qwen-code-messages": Patience(budget=12),
    "continue": Patience(budget=12, broken=12),
}
"""Codex retries each 401, the others each 429, whatever `x-should-retry` and the code of the error say."""
OWN_WORDS = {"codex": "Quota exceeded"}
"""Codex has a message of its own for `insufficient_quota`."""
BUDGET_SECONDS = 40.0
"""When agents that try on are stopped; they would show the message after a minute or two."""


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


def patience(name: str) -> Patience:
    return AGENTS_TRYING_ON.get(name, Patience())


@each_agent
def test_a_wrong_key_is_named(served: Proxy, run: RunAgent, name: str) -> None:
    done = run(served, "shell", "sk-wrong")
    assert 1 <= done.output.count(WRONG_KEY) <= MAX_TIMES, done.output
    assert 1 <= done.requests <= patience(name).wrong_key, done.output


@each_agent
def test_an_unknown_model_is_named(served: Proxy, run: RunAgent) -> None:
    done = run(served, UNKNOWN_MODEL, served.key)
    assert UNKNOWN_MODEL in done.output
    assert FINISHED not in done.output
    assert 1 <= done.requests <= 3, done.output


@each_agent
def test_an_exhausted_budget_is_named(served: Proxy, run: RunAgent, name: str) -> None:
    key = served.new_key(max_budget=1e-7)["key"]
    most = patience(name).budget
    tries_on = most > Patience().budget
    done = run(served, "shell", key, within=BUDGET_SECONDS) if tries_on else run(served, "shell", key)
    assert 1 <= done.requests <= most, done.output
    if not (tries_on and done.stopped):
        assert 1 <= done.output.count(OWN_WORDS.get(name, NO_BUDGET)) <= MAX_TIMES, done.output


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
    assert 1 <= done.requests <= patience(name).broken, done.output
