"""Sessions and agents of clients: in rows and sums, and as what keeps a conversation on one deployment."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from codellama_proxy.openai_format.request import MAX_NAME
from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config

CLAUDE = {"x-claude-code-session-id": "claude-1", "x-claude-code-agent-id": "agent-1"}


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Proxy:
    price = {"input": 1, "output": 2}
    twins = [{"name": "twins", "provider": "mock", "weight": weight, "price": price} for weight in (1, 3)]
    return module_proxy(config(*twins))


@pytest.fixture(scope="module")
def random_order(module_proxy: ProxyFactory) -> Proxy:
    twins = [{"name": "twins", "provider": "mock"} for _ in range(2)]
    return module_proxy(config(*twins, routing={"sticky": False}))


def ask(served: Proxy, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    """One chat; its settled row."""
    answer = served.client.post(
        "/v1/chat/completions", json={"prompt": "hi", **body}, headers={**served.auth, **(headers or {})}
    )
    assert answer.status_code == 200, answer.text
    return served.row(answer.headers["x-request-id"])


@each(
    ("headers", "cache_key", "session", "agent"),
    [
        ({}, None, None, None),
        (CLAUDE, None, "claude-1", "agent-1"),
        ({"session-id": "codex-1"}, "pck", "codex-1", None),
        ({"session_id": "old-codex"}, None, "old-codex", None),
        ({"x-session-id": "opencode", "session-id": "codex"}, None, "opencode", None),
        ({"session-id": ""}, "pck", "pck", None),
        ({}, "a\x00b\u202ec\n", "abc", None),
        ({}, "\x00", None, None),
    ],
)
def test_a_row_has_the_session_and_the_agent(
    served: Proxy, headers: dict[str, str], cache_key: str | None, session: str | None, agent: str | None
) -> None:
    body = {} if cache_key is None else {"prompt_cache_key": cache_key}
    row = ask(served, headers, **body)
    assert (row["session"], row["agent"]) == (session, agent)
    whole = served.admin("GET", f"/requests/{row['request_id']}").json()
    assert (whole["session"], whole["agent"]) == (session, agent)


def test_a_long_session_id_ends_in_its_hash(served: Proxy) -> None:
    rows = [ask(served, {"session-id": "x" * 300 + end}) for end in ("1", "2")]
    assert [len(row["session"]) for row in rows] == [MAX_NAME, MAX_NAME]
    assert rows[0]["session"] != rows[1]["session"]
    found = served.rows(session="x" * 300 + "1")
    assert [row["request_id"] for row in found] == [rows[0]["request_id"]]


def test_spending_is_filtered_and_grouped_by_session_and_agent(served: Proxy) -> None:
    for agent in ("a", "b", "b"):
        ask(served, {"x-session-id": "grouped", "x-claude-code-agent-id": agent})
    found = served.admin("GET", "/spend", params={"group_by": "session,agent", "session": "grouped"}).json()
    assert [(g["session"], g["agent"], g["requests"]) for g in found["data"]] == [
        ("grouped", "a", 1),
        ("grouped", "b", 2),
    ]
    assert found["total_cost_usd"] > 0
    assert len(served.rows(session="grouped", agent="b")) == 2
    assert served.rows(session="") == served.rows(agent="nobody") == []
    own = served.client.get("/spend", params={"group_by": "session"}, headers=served.auth).json()
    assert "grouped" in [group["session"] for group in own["data"]]


# --- stickiness --------------------------------------------------------------------------------------------


def turn(n: int, *more: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "system", "content": "s"}, {"role": "user", "content": f"task {n}"}, *more]


def test_each_conversation_stays_on_one_deployment(served: Proxy) -> None:
    first = Counter()
    for n in range(40):
        later = turn(n, {"role": "assistant", "content": "done"}, {"role": "user", "content": "more"})
        used = {
            served.chat({"messages": messages}).headers["x-proxy-deployment"] for messages in (turn(n), later)
        }
        assert len(used) == 1
        first.update(used)
    assert first["twins#2"] > first["twins#1"] > 0


@each("headers", [CLAUDE, {"session-id": "s"}, {}])
def test_a_session_stays_on_one_deployment_whatever_it_says(served: Proxy, headers: dict[str, str]) -> None:
    body = {} if headers else {"prompt_cache_key": "k"}
    rows = [ask(served, headers, prompt=f"prompt {n}", **body) for n in range(12)]
    assert len({row["deployment"] for row in rows}) == 1


def test_switched_off_the_draw_is_random(random_order: Proxy) -> None:
    used = {random_order.chat(prompt_cache_key="k").headers["x-proxy-deployment"] for _ in range(40)}
    assert used == {"twins#1", "twins#2"}
