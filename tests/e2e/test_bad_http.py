"""Strangers' HTTP: sizes, types, paths, methods and headers are refused in JSON, never with a 500."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, Wire, exchange, refused, request
from tests.support.upstream.process import Upstream

CHAT = "/v1/chat/completions"
LIMIT = 200_000
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    server = {"max_body": LIMIT}
    return module_proxy(config(upstream_process.model("plain"), server=server))


@pytest.fixture(autouse=True)
def _nothing_is_sent_upstream(served: Proxy, upstream: Upstream) -> Iterator[None]:
    yield
    expected = [
        body["messages"][-1]
        for body in upstream.journal.bodies()
        if body["messages"][-1]["content"] != "allowed"
    ]
    assert expected == []
    assert exchange(served.port, request("/health/liveliness", method="GET")).status == 200


def short(value: str) -> str:
    """A readable test id."""
    return repr(value)[:40]


def ask(served: Proxy, body: bytes | dict[str, Any], **headers: str) -> Reply:
    return exchange(served.port, request(CHAT, body, **{**served.auth, **headers}))


# --- size, type, encoding -------------------------------------------------------------------------


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent(served: Proxy) -> None:
    for length in (str(LIMIT + 1), "99999999999"):
        head = request(CHAT, b"", **{**served.auth, "content-length": length})
        refused(exchange(served.port, head), 413, "request_too_large")


def test_a_chunked_body_over_the_limit_is_refused_at_the_limit(served: Proxy) -> None:
    head = request(CHAT, b"", **{**served.auth, "content-length": "", "transfer-encoding": "chunked"})
    block = b"%x\r\n%s\r\n" % (20_000, b" " * 20_000)
    with Wire(served.port) as wire:
        wire.send(head + block * (LIMIT // 20_000 + 1))  # and no last chunk: the limit is what ends it
        refused(wire.reply(), 413, "request_too_large")


def test_a_body_just_under_the_limit_is_accepted(served: Proxy) -> None:
    filler = " " * (LIMIT - 200)
    body = json.dumps({"messages": [{"role": "user", "content": "allowed"}]}).encode() + filler.encode()
    assert ask(served, body).status == 200


def test_an_incomplete_body_is_not_processed(served: Proxy) -> None:
    data = request(CHAT, b'{"messages": [{"role": "user"', **{**served.auth, "content-length": "500"})
    with Wire(served.port) as wire:
        wire.send(data)
        wire.reset()


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]
)
def test_other_media_types_are_refused(served: Proxy, kind: str) -> None:
    body = json.dumps({"messages": USER}).encode()
    refused(ask(served, body, **{"content-type": kind}), 415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_every_spelling_of_the_json_media_type_is_accepted(served: Proxy, kind: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "allowed"}]}).encode()
    assert ask(served, body, **{"content-type": kind}).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, identity", "nonsense"])
def test_encoded_bodies_are_refused_unread(served: Proxy, encoding: str) -> None:
    reply = ask(served, b"\x1f\x8b" + b"x" * 100, **{"content-encoding": encoding})
    refused(reply, 415, "unsupported_content_encoding")


def test_an_invalid_key_is_refused_before_the_body_is_read(served: Proxy) -> None:
    headers = {"authorization": "Bearer sk-nobody", "content-length": "150000", "expect": "100-continue"}
    refused(exchange(served.port, request(CHAT, b"", **headers)), 401, "invalid_api_key")


# --- paths and methods ----------------------------------------------------------------------------

PATHS = [
    "/nope",
    "/v1/nope",
    "/v1/chat",
    "/v1/chat/completions/extra",
    "/v1/chat%2fcompletions/x",
    "/v1/chat/completions%00",
    "/V1/CHAT/COMPLETIONS",
    "/v1/../key/list",
    "/v1/chat/completions/../../../key/list",
    "/%2e%2e/key/list",
    "/key%2flist%00",
    "/..%5ckey",
    "/" + "a" * 8000,
]


@pytest.mark.parametrize("path", PATHS, ids=short)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(served: Proxy, path: str, method: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method=method, **served.auth), method=method)
    assert reply.status in (400, 403, 404, 405), reply
    refused(reply, reply.status)


@pytest.mark.parametrize(
    "path",
    ["*", "http://proxy/v1/nope", "v1/chat/completions", "/\x01", "/v1/nope?" + "q" * 60_000],
    ids=short,
)
def test_an_invalid_request_target_is_refused(served: Proxy, path: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method="GET", **served.auth), method="GET")
    assert reply.status in (400, 403, 404, 405, 414, 431), reply
    assert reply.error()["code"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", [CHAT, "/key/generate", "/v1/embeddings"])
def test_a_wrong_method_lists_the_allowed_ones(served: Proxy, path: str, method: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method=method, **served.auth), method=method)
    refused(reply, 405, "method_not_allowed")
    assert "POST" in reply.headers["allow"]


@pytest.mark.parametrize("method", ["BREW", "connect", "\x00", "GET\tPOST", "A" * 5000], ids=short)
def test_an_unknown_method_is_refused(served: Proxy, method: str) -> None:
    reply = exchange(served.port, request(CHAT, b"{}", method=method, **served.auth))
    assert reply.status in (400, 405, 501), reply
    assert reply.error()["code"]


# --- headers --------------------------------------------------------------------------------------

BODY = json.dumps({"messages": [{"role": "user", "content": "smuggled"}]}).encode()


def lines(served: Proxy, *more: str) -> bytes:
    head = [f"POST {CHAT} HTTP/1.1", f"authorization: {served.auth['authorization']}"]
    return "\r\n".join([*head, "content-type: application/json", *more]).encode("latin-1") + b"\r\n\r\n"


LENGTH = f"content-length: {len(BODY)}"
FRAMING = {
    "two lengths": ["host: p", LENGTH, "content-length: 5"],
    "a length and chunks": ["host: p", LENGTH, "transfer-encoding: chunked"],
    "a negative length": ["host: p", "content-length: -1"],
    "a length that is no number": ["host: p", "content-length: 1x"],
    "an unknown coding": ["host: p", "transfer-encoding: xchunked"],
    "a space before the colon": ["host : p", LENGTH],
    "a NUL in a value": ["host: p", "x-odd: a\x00b", LENGTH],
    "a NUL in a name": ["host: p", "x\x00odd: a", LENGTH],
    "a line without a colon": ["host: p", "nonsense", LENGTH],
}


@pytest.mark.parametrize("name", FRAMING)
def test_ambiguous_framing_is_refused(served: Proxy, name: str) -> None:
    refused(exchange(served.port, lines(served, *FRAMING[name]) + BODY), 400, "invalid_value")


@pytest.mark.parametrize("count", [1, 5000])
def test_huge_headers_are_refused(served: Proxy, count: int) -> None:
    more = [f"x-many-{i}: {'v' * (300_000 // count)}" for i in range(count)]
    reply = exchange(served.port, lines(served, "host: p", *more, "content-length: 2") + b"{}")
    refused(reply, 431, "headers_too_large")


def test_a_header_that_never_ends_is_refused(served: Proxy) -> None:
    with Wire(served.port) as wire:
        wire.send(f"POST {CHAT} HTTP/1.1\r\nx-endless: ".encode())
        for _ in range(10):
            wire.send(b"e" * 32_768)
        refused(wire.reply(), 431, "headers_too_large")


def test_two_different_keys_are_refused(served: Proxy) -> None:
    reply = exchange(served.port, lines(served, "host: p", "authorization: Bearer sk-other", LENGTH) + BODY)
    assert reply.status in (400, 401), reply
    assert reply.error()["code"]


def test_a_clients_request_id_is_not_repeated(served: Proxy) -> None:
    given = "mine-and-only-mine"
    reply = ask(served, {"messages": [{"role": "user", "content": "allowed"}]}, **{"x-request-id": given})
    assert reply.status == 200
    assert "mine" not in reply.headers["x-request-id"]


def test_control_characters_are_kept_out_of_headers_and_log_lines(served: Proxy) -> None:
    evil = "no\r\nset-cookie: x=1\n\x1b[31m{'level': 'fake'}"
    reply = ask(served, {"model": evil, "messages": USER, "user": evil})
    refused(reply, 404, "model_not_found")
    assert "set-cookie" not in reply.headers
    assert "\x1b[31m" not in served.log()


def test_addresses_in_a_request_are_never_fetched(served: Proxy, upstream: Upstream) -> None:
    picture = {"type": "image_url", "image_url": {"url": f"{upstream.origin}/canary.png"}}
    messages = [{"role": "user", "content": [picture]}, {"role": "user", "content": "allowed"}]
    assert ask(served, {"messages": messages}).status in (200, 400)
    assert "/canary.png" not in [one["path"] for one in upstream.journal.requests()]


def test_pipelined_requests_are_answered_in_order(served: Proxy) -> None:
    one = request("/nope", b"{}", **served.auth)
    two = request("/health/liveliness", method="GET")
    last = request("/v1/nope", b"{}", connection="close", **served.auth)
    with Wire(served.port) as wire:
        wire.send(one + two + last)
        received = b"".join(iter(lambda: wire.socket.recv(65536), b""))
    statuses = [line.split()[1] for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    # A body of JSON has no line end, so the next status line may follow it directly.
    statuses += [part.split()[0] for part in received.split(b"}HTTP/1.1 ")[1:]]
    assert sorted(statuses) == [b"200", b"404", b"404"]


@pytest.mark.parametrize("authorised", [True, False])
@pytest.mark.parametrize("endless", ["x-many: 1\r\n", "e"])
def test_trailers_that_never_end_close_the_connection(
    served: Proxy, endless: str, *, authorised: bool
) -> None:
    chunked = {"content-length": "", "transfer-encoding": "chunked"}
    head = request(CHAT, b"", **{**(served.auth if authorised else {}), **chunked})
    with Wire(served.port) as wire:
        wire.send(head + b"2\r\n{}\r\n0\r\nx-first: ")
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):  # noqa: PT012
            for _ in range(1000):
                wire.socket.sendall(endless.encode() * (32_768 // len(endless)))


def test_trailers_are_not_headers(served: Proxy) -> None:
    chunked = {"content-length": "", "transfer-encoding": "chunked"}
    (name, value), *_ = served.auth.items()
    head = request(CHAT, b"", **chunked)
    reply = exchange(served.port, head + f"2\r\n{{}}\r\n0\r\n{name}: {value}\r\n\r\n".encode())
    refused(reply, 401, "invalid_api_key")


def test_pipelined_requests_split_across_packets_are_all_answered(served: Proxy) -> None:
    one = request("/health/liveliness", method="GET", **{"x-padding": "p" * 20_000})
    many, answers = one * 10, b""
    with Wire(served.port) as wire:
        for at in range(-10_000, len(many), len(one)):
            wire.send(many[max(at, 0) : at + len(one)])
            time.sleep(0.01)
        while answers.count(b"HTTP/1.1 ") < 10:
            answers += (piece := wire.socket.recv(65_536))
            assert piece
    assert answers.count(b"HTTP/1.1 200 ") == 10


OFFERS = {
    "h2c": {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "HTTP2_Settings": "AAEAAEAAAAIAAAAA"},
    "websocket": {"connection": "upgrade", "upgrade": "websocket", "sec_websocket_version": "13"},
    "tls": {"connection": "keep-alive, Upgrade", "upgrade": "TLS/1.0, HTTP/1.1"},
}
ALLOWED = json.dumps({"messages": [{"role": "user", "content": "allowed"}]}).encode()
CODED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ALLOWED), ALLOWED)


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_upgrade_offer_is_ignored(
    served: Proxy, upstream: Upstream, offer: str, chunked: bool, pieces: int
) -> None:
    framing = {"content-length": "", "transfer-encoding": "chunked"} if chunked else {}
    headers = {**served.auth, **OFFERS[offer], "content-length": str(len(ALLOWED)), **framing}
    data = request(CHAT, b"", **headers) + (CODED if chunked else ALLOWED)
    size = len(data) // pieces + 1
    with Wire(served.port) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # and the connection is still one for HTTP/1.1
            for at in range(0, len(data), size):
                wire.send(data[at : at + size])
                time.sleep(0.005 if pieces > 1 else 0)
            assert wire.reply().status == 200
    assert len(upstream.journal.bodies()) == 2


@pytest.mark.parametrize("offer", OFFERS)
def test_the_body_of_an_upgrade_offer_is_not_a_request(served: Proxy, upstream: Upstream, offer: str) -> None:
    hidden = request(CHAT, ALLOWED, **served.auth)
    headers = {**OFFERS[offer], "authorization": "Bearer sk-nobody"}
    with Wire(served.port) as wire:
        wire.send(request(CHAT, hidden, **headers))
        refused(wire.reply(), 401, "invalid_api_key")
        wire.send(request("/health/liveliness", method="GET"))
        assert json.loads(wire.reply("GET").body) == {"status": "alive"}
    assert upstream.journal.bodies() == []


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
            .header("authorization", "Bearer " + given[1]).header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(given[2])).build();
        for (int i = 0; i < 3; i++) {
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="there is no JDK here")
def test_the_jdk_http_client_is_served(served: Proxy, upstream: Upstream, tmp_path: Path) -> None:
    """It offers h2c with its first request, whatever that is."""
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    command = ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", str(source)]
    given = [f"{served.url}{CHAT}", served.key, ALLOWED.decode()]
    done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["200"] * 3
    assert len(upstream.journal.bodies()) == 3
