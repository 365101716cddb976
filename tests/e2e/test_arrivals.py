"""Clients that send slowly keep nobody else waiting: places belong to requests whose bodies are here."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from codellama_proxy.gateway.arrivals import SPARE_REQUESTS
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, exchange, refused, request
from tests.support.upstream.process import Upstream

pytestmark = pytest.mark.one_process(
    "server.max_parallel_requests and bounds of bodies are each server's own"
)

CHAT = "/v1/chat/completions"
ROOM = 3
BODY = json.dumps({"model": "plain", "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(
        config(
            upstream_process.model("plain"),
            upstream_process.model("hanging", "hang"),
            server={"max_parallel_requests": ROOM},
        )
    )


@contextlib.contextmanager
def slow(served: Proxy, key: str, count: int) -> Iterator[list[Wire]]:
    """Connections that have sent a request's head and the first byte of its body."""
    head = request(CHAT, b"", authorization=f"Bearer {key}", content_length=str(len(BODY)))
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(served.port)).send(head + BODY[:1]) for _ in range(count)]


def test_slow_bodies_of_a_key_take_no_request_slot_and_are_bounded(served: Proxy) -> None:
    narrow = served.new_key("narrow", max_parallel_requests=1)["key"]
    with slow(served, narrow, 20) as wires:
        waiting, answered = wires[: 1 + SPARE_REQUESTS], wires[1 + SPARE_REQUESTS :]
        for wire in answered:
            reply = wire.reply()
            assert (reply.status, reply.error()["code"]) == (429, "concurrency_limit_exceeded")
            assert int(reply.headers["retry-after"]) >= 1
        began = time.monotonic()
        for _ in range(5):
            assert served.chat(model="plain").status_code == 200
        assert time.monotonic() - began < 20
        for wire in waiting:
            assert wire.send(BODY[1:]).reply().status == 200
    with slow(served, narrow, 1) as (wire,):
        assert wire.send(BODY[1:]).reply().status == 200, "what has ended is no longer counted"


def test_slow_bodies_of_a_key_without_limits_are_bounded(served: Proxy) -> None:
    with slow(served, served.key, 5 * ROOM) as wires:
        assert served.chat(model="plain").status_code == 200
        for wire in wires:
            assert wire.send(BODY[1:]).reply().status == 200


def test_disconnected_bodies_are_no_longer_counted(served: Proxy) -> None:
    narrow = served.new_key("narrow", max_parallel_requests=1)["key"]
    for _ in range(3):
        with slow(served, narrow, 1 + SPARE_REQUESTS):
            pass

        def is_free() -> bool:
            with slow(served, narrow, 1) as (wire,):
                return wire.send(BODY[1:]).reply().status == 200

        until(is_free, "room for one more")


def test_an_invalid_key_is_refused_before_the_body(served: Proxy) -> None:
    with slow(served, "sk-nobody", 50) as wires:
        for wire in wires:
            refused(wire.reply(), 401, "invalid_api_key")


def test_a_full_server_refuses_before_the_body(served: Proxy, upstream: Upstream) -> None:
    hanging = request(CHAT, {"model": "hanging", "prompt": "x", "stream": True}, **served.auth)
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM):
            stack.enter_context(Wire(served.port)).send(hanging)
        until(lambda: len(upstream.journal.requests("hanging")) == ROOM, "it is full")
        with slow(served, served.key, 1) as (wire,):
            reply = wire.reply()
            assert (reply.status, reply.error()["code"]) == (503, "overloaded")
        assert exchange(served.port, request("/health/liveliness", method="GET")).status == 200
    until(lambda: not served.rows(status="held"), "nothing held")


def test_abandoned_bodies_are_logged(served: Proxy) -> None:
    with slow(served, served.key, 1):
        pass
    until(lambda: [one for one in served.log_lines() if one.get("http_status") == 499], "the line")
