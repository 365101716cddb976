"""Hostile and unlucky clients: slow, silent, deaf, in a hurry, too many. Others are served, nothing is left behind."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, until
from tests.support.proxy_process import ADMIN, Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, exchange, refused, request
from tests.support.short_timeout_server import PATIENCE
from tests.support.upstream.process import Upstream

CHAT = "/v1/chat/completions"
ROOM = 25
ANSWER = 0.5
"""Seconds that a plain answer may take: it is finished although its client has left."""
LATE = 10.0
"""Seconds a timer may be late on a busy machine."""


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    text = config(
        model("plain"),
        model("hanging", "hang", timeouts={"answer": ANSWER}),
        model("gated", "gate=3", timeouts={"answer": ANSWER}),
        model("silent", "gate=3"),
        model("slow", "every=0.02"),
        model("late", "delay=0.3"),
        model("crowd", "gate=0"),
        model("long", "tokens=3000;fat=1000"),
        model("endless", "tokens=8000;fat=1000"),
        model("huge", "tokens=3000;fat=1000"),
        server={"max_parallel_requests": ROOM},
        routing={"cooldown": {"failures": 1000}},
    )
    return module_proxy(text, module="tests.support.short_timeout_server", env={"PYTHONPATH": str(ROOT)})


@pytest.fixture(autouse=True)
def _others_are_served_and_nothing_leaks(served: Proxy) -> Iterator[None]:
    assert served.chat(model="plain").status_code == 200
    before = connections(served)
    yield
    assert served.chat(model="plain").status_code == 200
    until(lambda: served.admin("GET", "/health").json()["running"] == 0, "nothing running", within=20)
    until(lambda: not served.rows(status="held"), "nothing held")
    until(lambda: connections(served) <= before, "its clients' connections are closed", within=20)


def connections(served: Proxy) -> int:
    """Sockets the server holds for clients, whether those are still there or not."""
    inodes = {link.readlink().name for link in Path(f"/proc/{served.pid}/fd").iterdir() if link.is_symlink()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{line[9]}]" in inodes and line[1].endswith(f":{served.port:04X}") for line in lines)


def memory(served: Proxy) -> int:
    status = Path(f"/proc/{served.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def ask(served: Proxy, model: str = "plain", *, stream: bool = False, **headers: str) -> bytes:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    return request(CHAT, body, **{**served.auth, **headers})


def newest(served: Proxy, model: str) -> dict[str, Any]:
    """The newest row of a model, settled."""

    def found() -> list[dict[str, Any]]:
        rows = [row for row in served.rows() if row["model_requested"] == model]
        return rows[:1] if rows and rows[0]["status"] != "held" else []

    return until(found, f"a settled row of {model}")[0]


def freed(upstream: Upstream, model: str) -> None:
    """Every call for the model was hung up on, or answered whole."""
    done = {one["request"] for one in upstream.journal.events("finished")}

    def all_over() -> bool:
        numbers = [one["request"] for one in upstream.journal.requests(model)]
        return all(number in done or upstream.journal.closed(number) for number in numbers)

    until(all_over, "the upstream is let go", within=20)


def closed(wire: Wire) -> bytes:
    """What comes until the server closes."""
    received = b""
    try:
        while piece := wire.socket.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


# --- slow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", b"GET / HTTP/1.1\r\nhost: p\r\n"])
def test_incomplete_headers_time_out(served: Proxy, sent: bytes) -> None:
    began = time.monotonic()
    with Wire(served.port) as wire:
        reply = wire.send(sent).reply()
    assert PATIENCE.head - 0.1 < time.monotonic() - began < PATIENCE.head + LATE
    refused(reply, 408, "request_timeout")


def test_slowly_sent_headers_time_out(served: Proxy) -> None:
    began = time.monotonic()
    with Wire(served.port) as wire:
        wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: p\r\nx-slow: ")
        while time.monotonic() - began < PATIENCE.head - 0.15:
            wire.send(b"s")
            time.sleep(0.05)
        refused(wire.reply(), 408, "request_timeout")
    assert time.monotonic() - began < PATIENCE.head + LATE


def test_many_slow_headers_do_not_delay_other_clients(served: Proxy) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(served.port)) for _ in range(200)]
        for wire in wires:
            wire.send(b"GET /health")
        began = time.monotonic()
        assert served.chat(model="plain").status_code == 200
        assert time.monotonic() - began < 5
        for wire in wires:
            assert b"request_timeout" in closed(wire)


@pytest.mark.parametrize("path", [CHAT, "/key/generate"])
def test_an_incomplete_body_times_out(served: Proxy, upstream: Upstream, path: str) -> None:
    rows = len(served.rows())
    key = ADMIN if path.startswith("/key") else served.key
    head = request(path, b"", authorization=f"Bearer {key}", content_length="10000")
    began = time.monotonic()
    with Wire(served.port) as wire:
        wire.send(head)
        while time.monotonic() - began < PATIENCE.body - 0.15:
            wire.send(b" ")
            time.sleep(0.05)
        reply = wire.reply()
        assert wire.socket.recv(1) == b"", "the rest of a body would be taken for a request"
    refused(reply, 408, "request_timeout")
    assert PATIENCE.body - 0.1 < time.monotonic() - began < PATIENCE.body + LATE
    assert upstream.journal.requests() == []
    assert len(served.rows()) == rows, "nothing was held for it"


def test_an_incomplete_refused_body_times_out(served: Proxy) -> None:
    with Wire(served.port) as wire:
        wire.send(request(CHAT, b"", authorization="Bearer sk-nobody", content_length="10000"))
        refused(wire.reply(), 401, "invalid_api_key")
        began = time.monotonic()
        wire.send(b" ")
        assert closed(wire) == b"", "and it is answered once"
    assert time.monotonic() - began < PATIENCE.head + LATE


def test_a_connection_is_usable_after_a_refused_body_arrived(served: Proxy) -> None:
    with Wire(served.port) as wire:
        wire.send(request(CHAT, b"", authorization="Bearer sk-nobody", content_length="1000"))
        refused(wire.reply(), 401, "invalid_api_key")
        wire.send(b" " * 400)
        wire.send(b" " * 600)
        time.sleep(PATIENCE.head + 0.2)
        assert wire.send(ask(served)).reply().status == 200


# --- deaf ------------------------------------------------------------------------------------------------


def unread_client(served: Proxy, data: bytes, room: int = 4096) -> Wire:
    """A client with next to no room for an answer, which it does not read."""
    wire = Wire.__new__(Wire)
    wire.socket = socket.socket()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    wire.socket.settimeout(10)
    wire.socket.connect(("127.0.0.1", served.port))
    return wire.send(data)


def test_unread_streams_are_paused_then_aborted(served: Proxy, upstream: Upstream) -> None:
    before = memory(served)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(unread_client(served, ask(served, "endless", stream=True)))
        until(lambda: len(upstream.journal.requests("endless")) == 3, "all of them upstream", within=20)
        # As long as all of them run: afterwards what they were sent is counted, which takes memory for a moment.
        used = before
        while served.admin("GET", "/health").json()["running"] == 3:
            used = memory(served)
        assert len(upstream.journal.events("sent")) < 3 * 8000, "the upstream is held back"
        assert used - before < (3 * 10) << 20, "not three times the 32 MB"
        row = newest(served, "endless")
        assert (row["status"], row["http_status"]) == ("cancelled", 499)
        assert row["completion_tokens"] > 0
        assert row["cost_usd"] > 0
        freed(upstream, "endless")


def test_a_large_unread_answer_is_released(served: Proxy, upstream: Upstream) -> None:
    before = connections(served)
    with unread_client(served, ask(served, "huge")):
        until(lambda: upstream.journal.events("finished"), "the answer", within=20)
        row = newest(served, "huge")
        # All of it was bought. A report of one token for a thousand characters is not believed.
        assert (row["status"], row["basis"]) == ("ok", "estimated")
        until(lambda: connections(served) <= before + 1, "the connection is cut", within=PATIENCE.send + LATE)


def test_a_slow_reader_gets_the_whole_answer(served: Proxy) -> None:
    with unread_client(served, ask(served, "long", stream=True), room=65536) as wire:
        received = bytearray()
        wire.socket.settimeout(10)
        while not received.endswith(b"0\r\n\r\n"):
            received += wire.socket.recv(65536)
            if len(received) < 6_000_000:
                time.sleep(0.01)
    assert b"long-2999" in received
    assert b"data: [DONE]\n\n" in received


# --- silence ---------------------------------------------------------------------------------------------


def test_silent_streams_carry_comments(served: Proxy, upstream: Upstream) -> None:
    with Wire(served.port) as wire:
        lines = wire.send(ask(served, "silent", stream=True)).lines()
        until(lambda: b"silent-2" in next(lines), "the tokens before the gate")
        assert next(lines) == b"\n"
        for _ in range(2):
            began = time.monotonic()
            assert next(lines).startswith(b":")
            assert next(lines) == b"\n"
            assert time.monotonic() - began < PATIENCE.heartbeat + LATE
        upstream.open_gate("silent")
        rest = b"".join(line for line in lines if not line.startswith(b":"))
    assert b"silent-3" in rest
    assert rest.endswith(b"data: [DONE]\n\n")


# --- leaving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_sending_half_is_answered(
    served: Proxy, upstream: Upstream, stream: bool
) -> None:
    with Wire(served.port) as wire:
        wire.send(ask(served, "late", stream=stream))
        until(lambda: upstream.journal.requests("late"), "it is upstream")
        wire.socket.shutdown(socket.SHUT_WR)
        received = closed(wire).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    assert received.startswith(b"HTTP/1.1 200")
    assert b"late-7" in received
    assert newest(served, "late")["status"] == "ok"


def test_requests_sent_before_closing_the_sending_half_are_answered(served: Proxy) -> None:
    whole = ask(served, "plain")
    with Wire(served.port) as wire:
        wire.send(ask(served, "late", stream=True) + whole + whole[:-5])
        wire.socket.shutdown(socket.SHUT_WR)
        received = closed(wire)
    assert received.count(b"HTTP/1.1 200") == 2
    assert b"late-7" in received.partition(b"[DONE]")[0]
    assert b"plain-7" in received.partition(b"[DONE]")[2]


def test_a_stream_continues_after_the_client_closed_its_sending_half(
    served: Proxy, upstream: Upstream
) -> None:
    with Wire(served.port) as wire:
        lines = wire.send(ask(served, "silent", stream=True)).lines()
        until(lambda: b"silent-2" in next(lines), "the tokens before the gate")
        wire.socket.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        upstream.open_gate("silent")
        rest = b"".join(lines)
    assert b"silent-3" in rest
    assert b"data: [DONE]\n\n" in rest


@pytest.mark.one_process("a relay learns that a client has left only when it writes to it")
@pytest.mark.parametrize("stream", [False, True])
def test_closing_both_halves_in_turn_is_a_disconnect(served: Proxy, upstream: Upstream, stream: bool) -> None:
    with Wire(served.port) as wire:
        wire.send(ask(served, "hanging", stream=stream))
        until(lambda: upstream.journal.requests("hanging"), "it is upstream")
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.socket.recv(100).startswith(b"HTTP/1.1 100")
    freed(upstream, "hanging")
    assert newest(served, "hanging")["http_status"] == 499


def test_a_disconnect_with_pipelined_requests_cancels_the_upstream_call(
    served: Proxy, upstream: Upstream
) -> None:
    with Wire(served.port) as wire:
        wire.send(ask(served, "slow", stream=True) + ask(served, "plain"))
        until(lambda: upstream.journal.requests("slow"), "the first is upstream")
        wire.reset()
    freed(upstream, "slow")
    assert newest(served, "slow")["http_status"] == 499
    assert upstream.journal.models() == ["slow"], "nobody was there for the second"


def random_disconnect(served: Proxy, seed: int) -> None:
    """One client that leaves somehow at some moment, maybe after its answer."""
    dice = random.Random(seed)
    model = dice.choice(["plain", "slow", "late", "hanging", "gated"])
    data = ask(served, model, stream=dice.random() < 0.5)
    if dice.random() < 0.1:
        data = data[: dice.randrange(len(data))]
    wire = Wire(served.port).send(data)
    wire.socket.settimeout(dice.random() * 0.15)
    try:
        for _ in range(dice.randrange(4)):
            wire.socket.recv(dice.choice([1, 50, 5000]))
    except (TimeoutError, ConnectionError):
        pass
    match dice.randrange(3):
        case 0:
            wire.reset()
        case 1:
            wire.socket.close()
        case 2:
            with wire:
                wire.socket.shutdown(socket.SHUT_WR)
                time.sleep(dice.random() * 0.05)


@pytest.mark.one_process("a relay learns that a client has left only when it writes to it")
def test_a_disconnect_at_any_moment_leaks_nothing(served: Proxy, upstream: Upstream) -> None:
    before = len(served.rows(size=1000))
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda seed: random_disconnect(served, seed), range(200)))
    until(lambda: served.admin("GET", "/health").json()["running"] == 0, "nothing running")
    until(lambda: not served.rows(status="held"), "nothing held")
    for model in ("plain", "slow", "late", "hanging", "gated"):
        freed(upstream, model)
    rows = served.rows(size=1000)
    rows = rows[: len(rows) - before]
    asked = len(upstream.journal.requests())
    assert asked <= len(rows) <= 200, "whoever was asked, there is a row of it"
    assert {row["status"] for row in rows} == {"ok", "cancelled"}
    assert all(row["cost_usd"] > 0 for row in rows if row["attempts"])


# --- too many ----------------------------------------------------------------------------------------------


@pytest.mark.one_process("server.max_parallel_requests and bounds of bodies are each server's own")
def test_requests_over_the_parallel_limit_are_refused_immediately(served: Proxy, upstream: Upstream) -> None:
    rows = len(served.rows())
    with ExitStack() as stack:
        whole = ask(served, "crowd", stream=True)
        inside = [stack.enter_context(Wire(served.port)).send(whole) for _ in range(ROOM)]
        until(lambda: len(upstream.journal.requests("crowd")) == ROOM, "the house is full")
        for stream in (False, True):
            with ThreadPoolExecutor(10) as pool:
                outside = list(pool.map(timed, [served] * 2 * ROOM, [stream] * 2 * ROOM))
            for reply, took in outside:
                assert took < 10
                assert (reply.status, reply.error()["code"]) == (503, "overloaded")
                assert reply.headers["content-type"] == "application/json"
                assert int(reply.headers["retry-after"]) >= 1
                assert int(reply.headers["retry-after-ms"]) >= 1
                assert reply.headers["x-request-id"]
                assert "x-should-retry" not in reply.headers
        for path in ("/health/liveliness", "/health/readiness"):
            began = time.monotonic()
            assert served.client.get(path).status_code == 200
            assert time.monotonic() - began < 5
        assert len(upstream.journal.requests()) == ROOM, "nobody was asked for the refused"
        upstream.open_gate("crowd")
        for wire in inside:
            assert wire.reply().body.endswith(b"data: [DONE]\n\n"), "those inside noticed nothing"
    began = time.monotonic()
    assert [served.chat(model="plain").status_code for _ in range(20)] == [200] * 20
    assert time.monotonic() - began < 20
    until(lambda: not served.rows(status="held"), "nothing held")
    assert len(served.rows()) == rows + ROOM + 20, "the refused left no row"


def timed(served: Proxy, stream: bool) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = exchange(served.port, ask(served, "plain", stream=stream))
    return reply, time.monotonic() - began


# --- hosts and paths -----------------------------------------------------------------------------------------

HOSTS = [
    (),
    ("p", "p"),
    ("p", "q"),
    ("",),
    ("x/health?y=",),
    ("#@p",),
    ("user:secret@p",),
    ("p:99999",),
    ("p:port",),
    ("p q",),
    ("p\\q",),
    ("[::1",),
    ("h\xe9",),
]


def with_hosts(hosts: tuple[str, ...], version: str = "1.1") -> bytes:
    lines = [f"GET /health/liveliness HTTP/{version}", *(f"host: {host}" for host in hosts)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


@pytest.mark.parametrize("hosts", HOSTS, ids=repr)
def test_a_request_needs_exactly_one_host(served: Proxy, hosts: tuple[str, ...]) -> None:
    with Wire(served.port) as wire:
        refused(wire.send(with_hosts(hosts)).reply("GET"), 400, "invalid_value")
        assert closed(wire) == b""


@pytest.mark.parametrize("host", ["p", "p:4000", "a.b-c.d:", "127.0.0.1:80", "[::1]:4000", "my_proxy"])
def test_every_valid_host_is_accepted(served: Proxy, host: str) -> None:
    assert exchange(served.port, with_hosts((host,)), method="GET").status == 200


def test_http_1_0_needs_no_host(served: Proxy) -> None:
    assert exchange(served.port, with_hosts((), version="1.0"), method="GET").status == 200


ADMIN_PATHS = [
    "/key%2flist",
    "/key%2Flist",
    "/%6bey/list",
    "/v1%2fkey/list",
    "/key/%6cist",
    "/key/list%00",
    "/key/list/",
    "/key/./list",
    "/x/../key/list",
    "/models/../key/list",
    "/v1/models/%2e%2e/%2e%2e/key/list",
    "/health/liveliness/../../key/list",
    "/key/list;x",
    "/key\\list",
    "/KEY/LIST",
    "http://p/key/list",
    "key/list",
    "*",
]


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_an_admin_route_has_one_spelling(served: Proxy, path: str) -> None:
    good = request("/key/list", method="GET", authorization=f"Bearer {ADMIN}")
    assert exchange(served.port, good, method="GET").status == 200
    data = request(path, method="GET", authorization=f"Bearer {ADMIN}")
    reply = exchange(served.port, data, method="GET")
    assert reply.status in (400, 404), reply
    refused(reply, reply.status)


def test_names_in_paths_may_be_percent_encoded(served: Proxy) -> None:
    data = request("/v1/models/p%6cain", method="GET", authorization=served.auth["authorization"])
    reply = exchange(served.port, data, method="GET")
    assert json.loads(reply.body)["id"] == "plain"


# --- one behind the other --------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(served: Proxy, upstream: Upstream) -> None:
    with Wire(served.port) as wire:
        wire.send(ask(served, "late") + ask(served, "plain", stream=True) + ask(served, "plain"))
        received = b""
        while b"plain-7" not in received.partition(b"[DONE]")[2]:
            received += wire.socket.recv(65536)
    assert received.index(b"late-0") < received.index(b"plain-0") < received.index(b"[DONE]")
    assert upstream.journal.models() == ["late", "plain", "plain"]


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01 nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /slow HTT"]
)
def test_garbage_after_a_request_does_not_affect_its_answer(served: Proxy, garbage: bytes) -> None:
    with Wire(served.port) as wire:
        wire.send(ask(served, "late"))
        time.sleep(0.05)
        received = closed(wire.send(garbage))
    assert received.startswith(b"HTTP/1.1 200")
    assert b"late-7" in received
    assert newest(served, "late")["status"] == "ok"


# --- asking before sending ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"authorization": "Bearer sk-nobody"}, 401), ({"content-length": "99999999"}, 413)],
    ids=["bad key", "too large"],
)
def test_a_refusal_sends_no_100_continue(served: Proxy, headers: dict[str, str], status: int) -> None:
    given: dict[str, Any] = {**served.auth, "expect": "100-continue", "content-length": "5000", **headers}
    data = request(CHAT, b"", **given)
    with Wire(served.port) as wire:
        received = closed(wire.send(data))
    assert received.startswith(b"HTTP/1.1 %d " % status), "no 100 before it"
    assert b"\r\nconnection: close\r\n" in received.lower(), "what follows could be the body or not"


def test_expect_100_continue_is_answered(served: Proxy) -> None:
    head, _, body = ask(served, "plain", expect="100-continue").partition(b"\r\n\r\n")
    with Wire(served.port) as wire:
        wire.send(head + b"\r\n\r\n")
        assert wire.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert wire.send(body).reply().status == 200
