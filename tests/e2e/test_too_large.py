"""413 is read by every client, also by those that read nothing before they have sent everything."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, refused, request
from tests.support.upstream.process import Upstream

CHAT = "/v1/chat/completions"
LIMIT = 1_000_000
MORE = 8 << 20


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(upstream_process.model("plain"), server={"max_body": LIMIT}))


def body_of(size: int) -> bytes:
    return b'{"prompt": "%b"}' % (b"x" * (size - 14))


def raw(served: Proxy, body: bytes) -> Reply:
    with Wire(served.port) as wire:
        wire.socket.sendall(request(CHAT, body, **served.auth))
        time.sleep(0.05)
        reply = wire.reply()
        assert wire.socket.recv(1) == b"", "and the connection ends"
        return reply


def raw_chunked(served: Proxy, body: bytes) -> Reply:
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part)
        for part in (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    )
    framing = {"content-length": "", "transfer-encoding": "chunked"}
    with Wire(served.port) as wire:
        wire.socket.sendall(request(CHAT, b"", **served.auth, **framing) + chunks + b"0\r\n\r\n")
        return wire.reply()


def http_client(served: Proxy, body: bytes) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request("POST", CHAT, body, {**served.auth, "content-type": "application/json"})
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, headers, answer.read())
    finally:
        connection.close()


def curl(served: Proxy, body: bytes) -> Reply:
    return _curl(served, body, "Expect:")


def curl_that_asks_first(served: Proxy, body: bytes) -> Reply:
    return _curl(served, body, "Expect: 100-continue")


def _curl(served: Proxy, body: bytes, *headers: str) -> Reply:
    given = [f"authorization: Bearer {served.key}", "content-type: application/json", *headers]
    flags = [part for header in given for part in ("-H", header)]
    command = ["curl", "-sS", "-i", "--data-binary", "@-", *flags, served.url + CHAT]
    done = subprocess.run(command, input=body, capture_output=True, timeout=20, check=True)
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(first.split()[1]), fields, rest)


NODE = """
const [url, key, size] = process.argv.slice(1);
const body = '{"prompt": "' + 'x'.repeat(Number(size) - 14) + '"}';
const headers = {authorization: 'Bearer ' + key, 'content-type': 'application/json'};
fetch(url, {method: 'POST', headers, body}).then(async (answer) => {
  console.log(JSON.stringify([answer.status, Object.fromEntries(answer.headers), await answer.text()]));
});
"""


def node(served: Proxy, body: bytes) -> Reply:
    command = ["node", "-e", NODE, served.url + CHAT, served.key, str(len(body))]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    status, headers, text = json.loads(done.stdout)
    return Reply(status, headers, text.encode())


CLIENTS: list[Callable[[Proxy, bytes], Reply]] = [
    raw,
    raw_chunked,
    http_client,
    curl,
    curl_that_asks_first,
    node,
]


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 100_000, LIMIT + MORE - 100_000])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_body_over_the_limit_gets_a_413(served: Proxy, client: Any, size: int) -> None:
    program = client.__name__.partition("_")[0]
    if program in ("curl", "node") and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    refused(client(served, body_of(size)), 413, "request_too_large")


@pytest.mark.parametrize("path", ["/key/generate", "/v1/embeddings", "/v1/feedback"])
def test_every_endpoint_reads_the_rest_of_the_body(served: Proxy, path: str) -> None:
    with Wire(served.port) as wire:
        wire.socket.sendall(request(path, b" " * (2 << 20), authorization="Bearer test-master-key-0001"))
        assert wire.reply().status in (401, 413)


def test_other_refusals_read_the_rest_of_the_body(served: Proxy) -> None:
    with Wire(served.port) as wire:
        wire.socket.sendall(request(CHAT, body_of(LIMIT + MORE // 2), authorization="Bearer sk-nobody"))
        refused(wire.reply(), 401, "invalid_api_key")
        wire.socket.sendall(request("/health/liveliness", method="GET"))
        assert wire.reply("GET").status == 200, "the next request on the connection is understood"


def test_the_bytes_read_after_a_refusal_are_bounded(served: Proxy) -> None:
    length = {**served.auth, "content-length": "999999999"}
    with Wire(served.port) as wire, pytest.raises(OSError, match=r"reset|[Bb]roken"):  # noqa: PT012
        wire.socket.sendall(request(CHAT, b"", **length))
        for _ in range(200):
            wire.socket.sendall(b"x" * 1_000_000)
            time.sleep(0.001)


@pytest.fixture(scope="module")
def impatient(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    text = config(upstream_process.model("plain"), server={"max_body": LIMIT})
    return module_proxy(text, module="tests.support.short_timeout_server")


@pytest.mark.parametrize("expect", ["", "100-continue"])
def test_an_incomplete_rest_times_out(impatient: Proxy, expect: str) -> None:
    head = {**impatient.auth, "content-length": str(LIMIT + 1), "expect": expect}
    started = time.monotonic()
    with Wire(impatient.port) as wire:
        wire.socket.sendall(request(CHAT, b"", **head) + b"{")
        refused(wire.reply(), 413, "request_too_large")
        assert wire.socket.recv(1) == b""
    assert time.monotonic() - started < 15


def test_expect_100_continue_is_refused_without_the_body(served: Proxy) -> None:
    head = {**served.auth, "content-length": str(LIMIT + 1), "expect": "100-continue"}
    started = time.monotonic()
    with Wire(served.port) as wire:
        wire.socket.sendall(request(CHAT, b"", **head))
        refused(wire.reply(), 413, "request_too_large")
        assert wire.socket.recv(1) == b""
    assert time.monotonic() - started < 10


def test_the_default_is_32_mb(upstream_process: Upstream, module_proxy: ProxyFactory) -> None:
    one = module_proxy(config(upstream_process.model("plain")))
    for size, code in ((32_000_000, "invalid_json"), (32_000_001, "request_too_large")):
        reply = http_client(one, b" " * size)
        assert reply.error()["code"] == code


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("key", "code"), [("sk-nobody", "invalid_api_key"), ("", "request_too_large")])
def test_a_refusal_waits_for_a_body_that_is_being_sent(
    served: Proxy, key: str, code: str, chunked: bool
) -> None:
    piece = b"x" * 300_000
    framing = {"content-length": str(5 * len(piece))}
    if chunked:
        framing = {"content-length": "", "transfer-encoding": "chunked"}
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    with Wire(served.port) as wire:
        wire.send(request(CHAT, b"", authorization=f"Bearer {key or served.key}", **framing))
        for _ in range(5):
            time.sleep(0.06)
            wire.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                wire.socket.recv(1)
            wire.socket.settimeout(10)
            wire.socket.sendall(piece)
        wire.socket.sendall(b"0\r\n\r\n" if chunked else b"")
        assert wire.reply().error()["code"] == code
