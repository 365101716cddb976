"""The end of the process, wished for or not: answers end in words, and the books know every request."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.processes import LOOPBACK, ROOT, environment, free_port, until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config, keys
from tests.support.raw_http import Wire, request
from tests.support.stored import rows_after_a_kill
from tests.support.upstream.process import PRICE, Upstream

pytestmark = pytest.mark.one_process("it looks at, or stops, one process")

CHAT = "/v1/chat/completions"
TERM_CODES = (0, 143)


@pytest.fixture
def proxy(proxy: ProxyFactory) -> ProxyFactory:
    """Starts each server with a new interpreter instead of forking."""
    return partial(proxy, launch=subprocess.Popen)


def ask(served: Proxy, model: str, *, stream: bool, user: str = "somebody") -> bytes:
    body = {"model": model, "stream": stream, "user": user, "messages": [{"role": "user", "content": "hi"}]}
    return request(CHAT, body, **served.auth)


def told(served: Proxy, number: signal.Signals = signal.SIGTERM) -> float:
    os.kill(served.pid, number)
    return time.monotonic()


def noticed(served: Proxy) -> None:
    """The first signal is handled: one more that comes before that would be merged with it."""
    until(lambda: "Shutting down" in served.log(), "the first signal is handled")


def begun(lines: Iterator[bytes], model: str) -> bytes:
    """What a stream says up to its second token."""
    read = b""
    while f"{model}-1".encode() not in read:
        read += next(lines)
    return read


def ended(served: Proxy, within: float) -> int:
    """The exit code of a server that was told to stop."""
    assert served._process is not None
    return served._process.wait(within)


def is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def last_event(body: bytes) -> dict[str, Any]:
    """The error of a stream's last event."""
    *_, last = body.strip().split(b"\n\n")
    event: dict[str, Any] = json.loads(last.removeprefix(b"data: "))
    return event


def books(served: Proxy) -> dict[str, dict[str, Any]]:
    """What a new start finds: every row settled, by model."""
    served.stop()
    served.start()
    rows = served.rows()
    assert [row for row in rows if row["status"] == "held"] == []
    assert keys(served.database, "reconcile").returncode == 0
    return {row["model_requested"]: row for row in rows}


def test_running_requests_are_completed(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(config(upstream.model("open", "gate=2"), upstream.model("late", "delay=0.6")))
    with ExitStack() as stack:
        streams = [stack.enter_context(Wire(served.port)) for _ in range(10)]
        for wire in streams:
            wire.send(ask(served, "open", stream=True))
        plain = stack.enter_context(Wire(served.port)).send(ask(served, "late", stream=False))
        idle = stack.enter_context(Wire(served.port))
        assert idle.send(request("/health/liveliness", method="GET")).reply("GET").status == 200
        until(lambda: len(upstream.journal.requests()) == 11, "all of them upstream")
        began = told(served)
        until(lambda: is_closed(served.port), "the door is closed")
        assert idle.socket.recv(1) == b"", "idle connections are told by closing them"
        assert plain.reply().status == 200
        upstream.open_gate("open")
        replies = [wire.reply() for wire in streams]
        assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies)
        assert ended(served, 20) in TERM_CODES
        assert time.monotonic() - began < 20
    rows = books(served)
    assert {(row["status"], row["basis"]) for row in rows.values()} == {("ok", "exact")}


def readiness(wire: Wire) -> tuple[int, str]:
    reply = wire.send(request("/health/readiness", method="GET")).reply("GET")
    assert (reply.headers.get("retry-after") == "1") == (reply.status == 503)
    return reply.status, json.loads(reply.body)["status"]


def test_during_the_drain_delay_readiness_fails_and_requests_are_served(
    proxy: ProxyFactory, upstream: Upstream
) -> None:
    served = proxy(config(upstream.model("open", "gate=2"), server={"drain_delay": "1m"}))
    with ExitStack() as stack:
        kept = stack.enter_context(Wire(served.port))
        assert readiness(kept) == (200, "ready")
        stream = stack.enter_context(Wire(served.port)).send(ask(served, "open", stream=True))
        until(upstream.journal.requests, "it is upstream")
        told(served)
        until(lambda: readiness(kept) == (503, "shutting_down"), "readiness on a connection that was there")
        with Wire(served.port) as new:
            assert readiness(new) == (503, "shutting_down")
            assert new.send(request("/health/liveliness", method="GET")).reply("GET").status == 200
            upstream.open_gate("open")
            assert new.send(ask(served, "open", stream=False)).reply().status == 200
        assert not is_closed(served.port)
        told(served)  # a second signal skips the rest of the delay
        assert stream.reply().body.endswith(b"data: [DONE]\n\n")
        assert ended(served, 20) in TERM_CODES


def test_the_drain_begins_after_the_delay(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(config(upstream.model("delayed", "gate=2"), server={"drain_delay": "500ms"}))
    with Wire(served.port) as wire:
        wire.send(ask(served, "delayed", stream=True))
        until(upstream.journal.requests, "it is upstream")
        began = told(served)
        until(lambda: is_closed(served.port), "the listener is closed")
        assert time.monotonic() - began > 0.45
        upstream.open_gate("delayed")
        assert wire.reply().body.endswith(b"data: [DONE]\n\n"), "a drain lets it finish"
    assert ended(served, 20) in TERM_CODES


def test_a_second_signal_skips_the_drain_delay(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(config(upstream.model("waiting", "gate=2"), server={"drain_delay": "1m"}))
    with Wire(served.port) as wire:
        lines = wire.send(ask(served, "waiting", stream=True)).lines()
        begun(lines, "waiting")
        told(served)
        noticed(served)
        assert not is_closed(served.port)
        told(served)
        assert last_event(b"".join(lines))["error"]["code"] == "shutting_down"
        assert ended(served, 20) in TERM_CODES


def test_streams_end_with_an_error_when_the_drain_is_over(proxy: ProxyFactory, upstream: Upstream) -> None:
    text = config(
        upstream.model("endless", "gate=2"),
        upstream.model("hanging", "hang"),
        upstream.model("unread", "tokens=3000;fat=1000"),
        server={"drain": "800ms"},
        limits={"project": {"max_budget": 100}},
    )
    served = proxy(text)
    with ExitStack() as stack:
        stream = stack.enter_context(Wire(served.port)).send(ask(served, "endless", stream=True))
        plain = stack.enter_context(Wire(served.port)).send(ask(served, "hanging", stream=False))
        unread = stack.enter_context(Wire(served.port)).send(ask(served, "unread", stream=True))
        assert unread.socket.recv(1), "its response has begun, however slow the upstream is: else it gets 503"
        until(lambda: len(upstream.journal.requests()) == 3, "all of them upstream")
        lines = stream.lines()
        start = begun(lines, "endless")
        began = told(served)
        refused, body = plain.reply(), start + b"".join(lines)
        assert time.monotonic() - began > 0.6
        assert (refused.status, refused.error()["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"]
        assert last_event(body)["error"]["code"] == "shutting_down"
        assert body.count(b'"error"') == 1
        assert b"[DONE]" not in body
        assert ended(served, 20) in TERM_CODES, "not even those who do not read hold it up"
        for one in upstream.journal.requests():
            assert upstream.journal.closed(one["request"]) or one["body"]["model"].startswith("unread")
    rows = books(served)
    assert {name: row["http_status"] for name, row in rows.items()} == {
        "endless": 200,
        "hanging": 503,
        "unread": 200,
    } | ({"unread": 499} if rows["unread"]["status"] == "cancelled" else {})
    assert rows["endless"]["status"] == rows["hanging"]["status"] == "error"
    assert rows["endless"]["completion_tokens"] > 0
    assert "crash_estimate" not in {row["basis"] for row in rows.values()}, "the end was orderly"
    assert all(row["cost_usd"] > 0 for row in rows.values())


def test_a_second_signal_ends_the_drain(proxy: ProxyFactory, upstream: Upstream) -> None:
    served = proxy(config(upstream.model("waiting", "gate=2"), upstream.model("hanging", "hang")))
    with ExitStack() as stack:
        stream = stack.enter_context(Wire(served.port)).send(ask(served, "waiting", stream=True))
        stack.enter_context(Wire(served.port)).send(ask(served, "hanging", stream=False))
        until(lambda: len(upstream.journal.requests()) == 2, "both upstream")
        lines = stream.lines()
        begun(lines, "waiting")
        told(served)
        noticed(served)
        told(served)
        assert ended(served, 20) in TERM_CODES
        assert last_event(b"".join(lines))["error"]["code"] == "shutting_down"
    rows = books(served)
    assert all(row["cost_usd"] > 0 for row in rows.values())
    assert "crash_estimate" not in {row["basis"] for row in rows.values()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_idle_server_stops_immediately(
    proxy: ProxyFactory, upstream: Upstream, number: signal.Signals
) -> None:
    served = proxy(config(upstream.model("plain")))
    began = told(served, number)
    assert ended(served, 20) in TERM_CODES
    assert time.monotonic() - began < 15
    assert not Path(f"{served.database}-wal").exists() or not Path(f"{served.database}-wal").stat().st_size


def test_slow_senders_do_not_delay_shutdown(proxy: ProxyFactory, upstream: Upstream) -> None:
    text = config(upstream.model("plain"), server={"drain": "600ms"})
    served = proxy(text, module="tests.support.short_timeout_server", env={"PYTHONPATH": str(ROOT)})
    with Wire(served.port) as head, Wire(served.port) as body:
        head.send(b"POST /v1/chat")
        body.send(request(CHAT, b"", authorization=f"Bearer {served.key}", content_length="100"))
        time.sleep(0.1)
        began = told(served)
        assert ended(served, 20) in TERM_CODES
        assert time.monotonic() - began < 15
    assert upstream.journal.requests() == []


# --- kill -9 ---------------------------------------------------------------------------------------------

SCRIPTS = {
    "slow": "every=0.01",
    "late": "delay=0.1",
    "hanging": "hang",
    "failing": "status=500",
    "cut": "cut=3;every=0.01",
}


CLIENTS, ROUNDS = 6, 2


class Traffic:
    """So many clients asking for this and that, streamed and not, some leaving early, until it ends."""

    def __init__(self, served: Proxy, seed: int, clients: int = CLIENTS) -> None:
        self.complete: list[str] = []
        """Users whose answer arrived whole."""
        self._served = served
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed * 100 + n), f"{seed}-{n}"))
            for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, dice: random.Random, name: str) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            with suppress(OSError, httpx2.HTTPError, AssertionError):
                self._one(dice, f"{name}-{number}")

    def _one(self, dice: random.Random, user: str) -> None:
        model, stream = dice.choice([*SCRIPTS, "plain", "plain", "slow"]), dice.random() < 0.5
        with Wire(self._served.port, timeout=dice.choice([0.03, 0.3, 2.0])) as wire:
            reply = wire.send(ask(self._served, model, stream=stream, user=user)).reply()
            if reply.status == 200 and (not stream or reply.body.endswith(b"[DONE]\n\n")):
                self.complete.append(user)


def test_sigkill_under_traffic_loses_no_acknowledged_row(proxy: ProxyFactory, upstream: Upstream) -> None:
    text = config(
        upstream.model("plain"),
        *(upstream.model(name, script, fallbacks=["plain"]) for name, script in SCRIPTS.items()),
        limits={"project": {"max_budget": 1000}},
        routing={"cooldown": {"failures": 1000}},
    )
    served = proxy(text)
    complete: list[str] = []
    for round_ in range(ROUNDS):
        traffic = Traffic(served, round_)
        seen = len(upstream.journal.requests())
        until(partial(_more, upstream, seen + 60), "traffic", within=30)
        served.kill()
        traffic.stop()
        complete += traffic.complete
        served.start()
    listed = rows_after_a_kill(served)
    rows = {row["user"]: row for row in listed}
    assert len(rows) == len(listed), "one row a request"
    assert {row["status"] for row in rows.values()} <= {"ok", "error", "cancelled"}
    assert "crash_estimate" in {row["basis"] for row in rows.values()}
    assert set(complete) <= rows.keys()
    late = [user for user in complete if rows[user]["basis"] == "crash_estimate"]
    assert len(late) <= ROUNDS * CLIENTS, "only what was answered in the moment of a kill was not booked yet"
    compare(rows, upstream)
    assert keys(served.database, "reconcile").returncode == 0


def _more(upstream: Upstream, count: int) -> bool:
    return len(upstream.journal.requests()) > count


def compare(rows: dict[str, dict[str, Any]], upstream: Upstream) -> None:
    """Row by row with what really reached the upstream, and what it says it sent."""
    sent: dict[str, list[dict[str, Any]]] = {}
    for one in upstream.journal.requests():
        sent.setdefault(one["body"]["user"], []).append(one)
    reported = {one["request"]: one["usage"] for one in upstream.journal.events("finished")}
    assert sent.keys() <= rows.keys(), "nothing went upstream without a row"
    for user, row in rows.items():
        calls = sent.get(user, [])
        if row["basis"] == "crash_estimate":
            assert row["cost_usd"] > 0
            continue
        assert len(row["attempts"]) >= len(calls)
        if row["status"] == "ok":
            usage = reported[calls[-1]["request"]]
            served = row["attempts"][-1]
            assert served["basis"] == "exact"
            assert (served["prompt_tokens"], served["completion_tokens"]) == (
                usage["prompt_tokens"],
                usage["completion_tokens"],
            )
            assert served["cost_usd"] == pytest.approx(price(usage), abs=2e-9)
            assert row["cost_usd"] == pytest.approx(sum(one["cost_usd"] for one in row["attempts"]), abs=2e-9)
        elif calls and row["status"] == "cancelled":
            refused = [one for one in row["attempts"] if (one["status"] or 0) >= 400]
            assert row["cost_usd"] > 0 or len(refused) == len(calls), "only refused calls cost nothing"


def price(usage: dict[str, int]) -> float:
    return (usage["prompt_tokens"] * PRICE["input"] + usage["completion_tokens"] * PRICE["output"]) / 1e6


def test_an_unread_stdout_does_not_delay_shutdown(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(config({"name": "m", "provider": "mock"}))
    port, headers = free_port(), {"authorization": f"Bearer {ADMIN}"}
    command = [sys.executable, "-m", "codellama_proxy", "serve", "--port", str(port)]
    command += ["--config", str(tmp_path / "proxy.yaml"), "--database", str(tmp_path / "proxy.db")]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(PROXY_MASTER_KEY=ADMIN, PYTHONUNBUFFERED=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            until(lambda: not is_closed(port), "it listens", within=20)
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, **LOOPBACK) as client:
                for _ in range(200):  # ten times what a pipe holds
                    client.get(f"/nowhere/{'x' * 3000}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) in TERM_CODES
        finally:
            process.kill()
