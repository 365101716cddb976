"""Prompts and answers in the database: only where the configuration keeps them, and no longer than it says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from codellama_proxy.core.request_id import new_request_id
from tests.support.processes import until
from tests.support.proxy_process import GUARDRAIL, Proxy, ProxyFactory, config
from tests.support.stored import kept, on_server, query
from tests.support.upstream.process import Upstream

KEPT = {"requests": {"content": True}}


def details(one: Proxy, request_id: str) -> dict[str, Any]:
    one.row(request_id)
    answer = one.client.get(f"/requests/{request_id}", headers=one.auth)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_prompt_and_answer_are_stored_if_configured_and_shown_to_the_project(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    one = proxy(config(upstream.model("fast"), tracking=KEPT))
    plain, stream = one.chat(prompt="a loop"), one.chat(prompt="a loop", stream=True)
    answer_text = plain.json()["choices"][0]["message"]["content"]
    for answer in (plain, stream):
        content = details(one, answer.headers["x-request-id"])["content"]
        assert content["messages"] == [
            {"role": "system", "content": GUARDRAIL},
            {"role": "user", "content": "a loop"},
        ]
        assert content["choices"][0]["message"]["content"] == answer_text
        assert content["choices"][0]["finish_reason"] == "stop"
        assert content["cut"] is False


def test_the_received_part_of_a_cut_answer_is_stored(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("short", "cut=2"), tracking=KEPT))
    content = details(one, one.chat(stream=True).headers["x-request-id"])["content"]
    assert content["choices"][0]["message"]["content"]
    assert content["choices"][0]["finish_reason"] is None


def test_by_default_no_content_is_in_database_or_log(proxy: ProxyFactory, upstream: Upstream) -> None:
    one = proxy(config(upstream.model("fast")))
    answer = one.chat(prompt="CANARY-PROMPT")
    assert "content" not in details(one, answer.headers["x-request-id"])
    one.stop()
    assert not any(b"CANARY-PROMPT" in data for data in kept(one, "proxy.db*").values())
    assert "CANARY-PROMPT" not in one.log()


def test_expired_rows_become_daily_totals_without_content(proxy: ProxyFactory, upstream: Upstream) -> None:
    text = config(upstream.model("fast"), tracking={"requests": {"content": True, "retention": "7d"}})
    one = proxy(text)
    old, new = one.chat(prompt="CANARY-OLD"), one.chat(prompt="CANARY-NEW")
    ids = [answer.headers["x-request-id"] for answer in (old, new)]
    for request_id in ids:
        one.row(request_id)
    before = one.admin("GET", "/spend").json()
    one.stop()
    make_old(one.database, ids[0], 8 * 86400)
    one.start()
    until(lambda: "past their retention" in one.log(), "the fold")
    assert [row["request_id"] for row in one.rows()] == [ids[1]]
    after = one.admin("GET", "/spend").json()
    assert (after["total_cost_usd"], after["total_requests"]) == (before["total_cost_usd"], 2)
    ((content,),) = query(one.database, "select content from request_contents")
    assert "CANARY-NEW" in str(content)


def make_old(database: Path | str, request_id: str, seconds: int) -> None:
    """Move a row into the past. On a server its id moves too: whole days of ids expire there."""
    if not on_server(database):
        query(
            database,
            f"update requests set created_at = created_at - {seconds} where request_id = '{request_id}'",
        )
        return
    old = new_request_id(time.time() - seconds)
    query(database, f"update request_contents set request_id = '{old}' where request_id = '{request_id}'")
    query(
        database,
        f"update settled set request_id = '{old}', created_at = created_at - {seconds} "
        f"where request_id = '{request_id}'",
    )
