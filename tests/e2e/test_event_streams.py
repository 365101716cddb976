"""Upstreams' event streams in every legal and illegal form, over sockets: read as browsers read them, or failed.

The forms are those of the public web-platform tests for event streams.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.dialects.loopback import JSON, SSE, Asked, CannedResponse, Server, serving
from tests.support.dialogues import chunk
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, request

BOM = b"\xef\xbb\xbf"
LONG = b"x" * 5000


def text_event(text: str) -> bytes:
    """A chunk with the text, as one line."""
    return json.dumps(chunk({"content": text})).encode()


ONE, TWO, THREE = text_event("1"), text_event("2"), text_event("3")
IN_LINES = [b'{"choices": [{"index": 0,', b' "delta": {"content":', b' "1"},', b' "finish_reason": null}]}']
END = b"data: " + json.dumps(chunk({}, "stop")).encode() + b"\n\ndata: [DONE]\n\n"

READ = {
    "a byte order mark once": (
        BOM + b"data:%s\n\n" % ONE + BOM + b"data:%s\n\ndata:%s\n\n" % (TWO, THREE),
        "13",
    ),
    "two byte order marks": (BOM + BOM + b"data:%s\n\ndata:%s\n\n" % (ONE, TWO), "2"),
    "comments": (
        b"data:%s\r:\0\n:\r\ndata:%s\n:%s\rdata:%s\n:data:fail\r:%s\ndata:%s\n\n"
        % (IN_LINES[0], IN_LINES[1], LONG, IN_LINES[2], LONG, IN_LINES[3]),
        "1",
    ),
    "empty data": (b"data:\n\ndata\ndata\n\ndata:%s\n\n" % ONE, "1"),
    "a named event": (b"event:test\ndata:%s\n\ndata:%s\n\n" % (ONE, TWO), "12"),
    "an event without a name": (b"event: \ndata:%s\n\n" % ONE, "1"),
    "ids": (b"id: 1\ndata:%s\n\nid\ndata:%s\n\nid: \0\ndata:%s\n\n" % (ONE, TWO, THREE), "123"),
    "retry": (b"retry:3000\nretry:1000x\nretry\nretry:-1\ndata:%s\n\n" % ONE, "1"),
    "names of other fields": (
        b"Data:x\ndata\0:x\nda-ta:x\rdata_5\ndata:%s\r data:x\nfoobar:xxx\njusttext\n:comment\n\n" % ONE,
        "1",
    ),
    "leading space": (b"data:\t%s\rdata: \ndata:  \n\n" % ONE, "1"),
    "line ends": (b"data:%s\r\ndata:%s\ndata:%s\rdata:%s\r\n\r" % tuple(IN_LINES), "1"),
    "lone carriage returns": (b"data:%s\r\rdata:%s\r\r" % (ONE, TWO), "12"),
    "characters": (b"data:%s\n\n" % text_event("ok\u2026\u20ac\U0001f600"), "ok\u2026\u20ac\U0001f600"),
    "raw characters": (
        'data: {"choices": [{"index": 0, "delta": {"content": "\u2026\u20ac\U0001f600"}}]}\n\n'.encode(),
        "\u2026\u20ac\U0001f600",
    ),
    "bytes that are no UTF-8": (
        b'data: {"choices": [{"index": 0, "delta": {"content": "a\xe2\x82b\xff"}}]}\n\n',
        "a\ufffdb\ufffd",
    ),
    "no space and many": (b"data:%s\n\ndata:   %s\n\n" % (ONE, TWO), "12"),
    "many empty lines": (b"\n\n\n\ndata:%s\n\n\n\n\n\ndata:%s\n\n" % (ONE, TWO), "12"),
    "an event without data": (b"event: error\n\ndata:%s\n\n" % ONE, "1"),
}
FAILED = {
    "a null character": b"data:\0\n\n",
    "null characters in lines": b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\n\n",
    "plain text": b"data:msg\n\n",
    "two documents in one event": b"data:%s\ndata:%s\n\n" % (TWO, THREE),
    "an error event": b"event: error\ndata: overloaded\n\n",
    "an error object": b'data: {"object": "error", "message": "overloaded"}\n\n',
}


class Upstream:
    """Answers with the pieces that the test has laid down last."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes | float] = ()
        self.kind = SSE

    def answer(self, asked: Asked) -> CannedResponse:
        return CannedResponse(200, list(self.pieces), self.kind)


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def served(upstream: Upstream, module_proxy: ProxyFactory) -> Iterator[Proxy]:
    with serving(upstream.answer) as server:
        yield module_proxy(
            config(
                entry("m", server),
                routing={"retries": 0, "deadline": "8s", "cooldown": {"failures": 1000}},
                cache={"enabled": True},
            )
        )


def entry(name: str, server: Server) -> dict[str, Any]:
    price = {"input": 2, "output": 8}
    base = {"provider": "openai_compatible", "model": "up", "base_url": server.url, "api_key": "k"}
    return {"name": name, **base, "fallbacks": [], "price": price}


def ask(served: Proxy, **more: Any) -> Reply:
    body = {"model": "m", "messages": [{"role": "user", "content": f"hi {time.monotonic_ns()}"}], **more}
    with Wire(served.port) as wire:
        return wire.send(request("/v1/chat/completions", body, **served.auth)).reply()


def read(reply: Reply) -> tuple[str, str | None]:
    """What a stream said, and how it ended: `[DONE]`, or the code of its error."""
    assert reply.status == 200, reply.body
    *events, last = reply.body.removesuffix(b"\n\n").split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    choices = [choice for event in events for choice in json.loads(event[6:])["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return text, "[DONE]" if last == b"data: [DONE]" else json.loads(last[6:])["error"]["code"]


@pytest.mark.parametrize(("raw", "text"), READ.values(), ids=READ)
@pytest.mark.parametrize("size", [1 << 20, 7])
def test_every_legal_form_is_read(
    served: Proxy, upstream: Upstream, raw: bytes, text: str, size: int
) -> None:
    whole = raw + END
    upstream.pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert read(ask(served, stream=True)) == (text, "[DONE]")
    reply = ask(served)
    assert reply.status == 200
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("raw", FAILED.values(), ids=FAILED)
def test_an_unreadable_stream_fails(served: Proxy, upstream: Upstream, raw: bytes) -> None:
    # The pause is long enough for a busy machine to send the first text on before the failure comes.
    upstream.pieces = [b"data:%s\n\n" % ONE, 0.3, raw + b"data:%s\n\n" % TWO + END]
    text, ended = read(ask(served, stream=True))
    assert (text, ended) == ("1", "upstream_invalid_response")
    upstream.pieces = [raw + b"data:%s\n\n" % TWO + END]
    assert ask(served, stream=True).status == 502
    assert ask(served).status == 502
    until(lambda: {row["status"] for row in served.rows(size=3)} == {"error"}, "all are settled")


HEAVY = {
    "choices": {"choices": [{"index": n, "delta": {"content": "x"}} for n in range(10_000)]},
    "calls": chunk({"tool_calls": [{"index": n, "function": {"name": "f"}} for n in range(10_000)]}),
    "logprobs": {
        "choices": [
            {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [{"token": "x"}] * 20_000}},
        ]
    },
}
LIGHT = {
    "small events": b"data:{}\n\n" * 100_000,
    "comments": b":\n\n" * 300_000,
    "lines of one event": b"data:\n" * 150_000 + b"\n",
    "the beginning of a line again and again": b"data: " * 150_000 + b"\n:\n\n",
}


MAX_BLOCKED_SECONDS = 0.5
"""CPU time, which other processes on the machine do not add to."""


def loop_cpu_seconds(served: Proxy) -> float:
    """What the server's main thread, which runs the event loop, has computed so far."""
    fields = Path(f"/proc/{served.pid}/task/{served.pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("raw", [*HEAVY.values(), *LIGHT.values()], ids=[*HEAVY, *LIGHT])
def test_no_stream_blocks_other_requests(served: Proxy, upstream: Upstream, raw: Any) -> None:
    """Other requests are answered meanwhile; between two answers the event loop computes only for a short time."""
    piece = raw if isinstance(raw, bytes) else b"data: " + json.dumps(raw).encode() + b"\n\n"
    upstream.pieces = [b"data:%s\n\n" % ONE, piece, END]
    body = {"model": "m", "messages": [{"role": "user", "content": f"{time.monotonic_ns()}"}], "stream": True}
    longest = 0.0
    with ThreadPoolExecutor() as pool, Wire(served.port, timeout=30) as heavy, Wire(served.port) as other:
        before = loop_cpu_seconds(served)
        reading = pool.submit(heavy.send(request("/v1/chat/completions", body, **served.auth)).reply)
        while not reading.done():
            assert other.send(request("/health/liveliness", method="GET")).reply("GET").status == 200
            now = loop_cpu_seconds(served)
            longest, before = max(longest, now - before), now
        assert reading.result().status in (200, 502)
    assert longest < MAX_BLOCKED_SECONDS


def test_large_answers_are_complete(served: Proxy, upstream: Upstream) -> None:
    message = {"role": "assistant", "content": "word " * 400_000}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    upstream.pieces = [json.dumps({"id": "c", "choices": [choice]}).encode()]
    upstream.kind = JSON
    try:
        whole, streamed = ask(served), ask(served, stream=True)
    finally:
        upstream.kind = SSE
    assert json.loads(whole.body)["choices"][0]["message"] == message
    assert read(streamed) == (message["content"], "[DONE]")
    until(lambda: served.rows(size=2)[0]["status"] == "ok", "the row is settled")
