"""Clients that leave: the upstream is let go within a second, one settled row stays, nothing is held."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

pytestmark = pytest.mark.one_process("a relay learns that a client has left only when it writes to it")

ANSWER = 0.8
"""Seconds that a plain answer may take, whether or not its client waits for it."""
FINISHED = {True: 0.0, False: ANSWER}
"""Seconds that a call goes on without its client, by whether it is a stream."""


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    return module_proxy(
        config(
            model("hanging", "hang", timeouts={"answer": ANSWER}),
            model("slow-head", "stall=0", timeouts={"answer": ANSWER}),
            model("slow", "delay=0.4"),
            model("mid", "gate=3"),
            model("slow-failure", "delay=0.4;status=500", fallbacks=["spare"]),
            model("spare"),
            routing={"cooldown": {"failures": 1000}},
            projects={"single": {"limits": {"max_parallel_requests": 1}}},
        )
    )


def ask(
    served: Proxy, model: str, streamed: bool, key: str | None = None, content: str = "hi there"
) -> bytes:
    body = {"model": model, "stream": streamed, "messages": [{"role": "user", "content": content}]}
    return request("/v1/chat/completions", body, authorization=f"Bearer {key or served.key}")


def leave(wire: Wire, how: str) -> float:
    wire.reset() if how == "reset" else wire.socket.close()
    return time.monotonic()


def arrived(upstream: Upstream, model: str) -> int:
    found = until(lambda: upstream.journal.requests(model), f"a request for {model}")
    number: int = found[-1]["request"]
    return number


def row_of(served: Proxy, model: str, count: int) -> dict[str, Any]:
    """The newest row of a model once all `count` of them are settled."""

    def settled() -> list[dict[str, Any]]:
        rows = served.rows()
        mine = [row for row in rows if row["model_requested"] == model]
        return mine if len(mine) == count and all(row["status"] != "held" for row in mine) else []

    return until(settled, f"{count} settled rows of {model}")[0]


def rows_before(served: Proxy, model: str) -> int:
    return len([row for row in served.rows() if row["model_requested"] == model])


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["hanging", "slow-head"])
def test_a_disconnect_before_the_answer_cancels_a_stream_and_completes_a_plain_call(
    served: Proxy, upstream: Upstream, model: str, streamed: bool, how: str
) -> None:
    before = rows_before(served, model)
    wire = Wire(served.port).send(ask(served, model, streamed))
    number = arrived(upstream, model)
    left = leave(wire, how)
    closed = until(lambda: upstream.journal.closed(number), "the upstream's close")
    assert closed[0]["at"] - left < 10 + FINISHED[streamed]
    row = row_of(served, model, before + 1)
    assert (row["status"], row["http_status"]) == ("cancelled", 499)
    assert row["prompt_tokens"] > 0, "it was sent: its input is booked"
    assert row["cost_usd"] > 0
    assert len(upstream.journal.requests()) == 1, "and nobody else was asked"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_plain_answer_is_booked_as_reported_after_a_disconnect(
    served: Proxy, upstream: Upstream, how: str
) -> None:
    before = rows_before(served, "slow")
    wire = Wire(served.port).send(ask(served, "slow", streamed=False))
    arrived(upstream, "slow")
    leave(wire, how)
    row = row_of(served, "slow", before + 1)
    assert (row["status"], row["http_status"], row["basis"]) == ("cancelled", 499, "exact")
    (reported,) = upstream.journal.events("finished")
    assert row["completion_tokens"] == reported["usage"]["completion_tokens"] > 0
    assert row["cost_usd"] > 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_disconnect_mid_stream_books_the_delivered_part(
    served: Proxy, upstream: Upstream, how: str
) -> None:
    before = rows_before(served, "mid")
    wire = Wire(served.port).send(ask(served, "mid", streamed=True))
    lines = wire.lines()
    until(lambda: b"mid-2" in next(lines), "the third token")
    number = arrived(upstream, "mid")
    left = leave(wire, how)
    lines.close()
    closed = until(lambda: upstream.journal.closed(number), "the upstream's close")
    assert closed[0]["at"] - left < 10
    row = row_of(served, "mid", before + 1)
    assert (row["status"], row["http_status"], row["stream"]) == ("cancelled", 499, True)
    assert row["basis"] == "estimated"
    assert row["prompt_tokens"] > 0
    assert row["completion_tokens"] >= 3
    assert row["cost_usd"] > 0


def test_no_attempt_is_made_after_a_disconnect(served: Proxy, upstream: Upstream) -> None:
    wire = Wire(served.port).send(ask(served, "slow-failure", streamed=False))
    arrived(upstream, "slow-failure")
    leave(wire, "close")
    row = row_of(served, "slow-failure", 1)
    assert row["status"] == "cancelled"
    time.sleep(0.5)  # the upstream's own delay: by then it would have failed over
    assert upstream.journal.models() == ["slow-failure"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_disconnect_frees_the_parallel_slot(served: Proxy, upstream: Upstream, streamed: bool) -> None:
    key = served.new_key("single")["key"]
    auth = {"authorization": f"Bearer {key}"}
    body = {"model": "spare", "messages": [{"role": "user", "content": "hi"}]}
    wire = Wire(served.port).send(ask(served, "hanging", streamed, key))
    arrived(upstream, "hanging")
    refused = served.client.post("/v1/chat/completions", json=body, headers=auth)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
    left = leave(wire, "close")
    until(
        lambda: served.client.post("/v1/chat/completions", json=body, headers=auth).status_code == 200,
        "the place is free again",
    )
    assert time.monotonic() - left < 10 + FINISHED[streamed]


def test_many_disconnects_do_not_block_other_clients(served: Proxy, upstream: Upstream) -> None:
    wires = [Wire(served.port).send(ask(served, "hanging", i % 2 == 0)) for i in range(60)]
    until(lambda: len(upstream.journal.requests()) >= 60, "as many upstream")  # more if some are tried again
    for i, wire in enumerate(wires):
        leave(wire, "reset" if i % 3 else "close")
    began = time.monotonic()
    assert served.chat(model="spare").status_code == 200
    assert time.monotonic() - began < 10
    numbers = [one["request"] for one in upstream.journal.requests("hanging")]
    until(lambda: all(upstream.journal.closed(number) for number in numbers), "all of them closed")


def test_no_holds_remain_after_disconnects(served: Proxy) -> None:
    until(lambda: not [row for row in served.rows() if row["status"] == "held"], "no held rows")
    assert served.chat(model="spare").status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("behind", [b"", request("/health/liveliness", method="GET") * 20])
def test_a_disconnect_after_a_large_body_is_detected(
    served: Proxy, upstream: Upstream, streamed: bool, behind: bytes
) -> None:
    before = rows_before(served, "hanging")
    wire = Wire(served.port).send(ask(served, "hanging", streamed, content="x" * 1_000_000) + behind)
    number = arrived(upstream, "hanging")
    left = leave(wire, "close")
    closed = until(lambda: upstream.journal.closed(number), "the upstream's close")
    assert closed[0]["at"] - left < 10 + FINISHED[streamed]
    assert row_of(served, "hanging", before + 1)["http_status"] == 499


@pytest.mark.parametrize("path", ["//v1/chat/completions", "/v1/v1/chat/completions"])
def test_a_disconnect_on_a_normalised_path_is_detected(served: Proxy, upstream: Upstream, path: str) -> None:
    before = rows_before(served, "hanging")
    data = ask(served, "hanging", streamed=True, content="x" * 300_000)
    wire = Wire(served.port).send(data.replace(b"/v1/chat/completions", path.encode(), 1))
    number = arrived(upstream, "hanging")
    left = leave(wire, "close")
    closed = until(lambda: upstream.journal.closed(number), "the upstream's close")
    assert closed[0]["at"] - left < 10
    assert row_of(served, "hanging", before + 1)["http_status"] == 499
