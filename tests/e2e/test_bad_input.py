"""Strangers' bytes: the answer is our JSON error, nothing goes upstream, nothing is ever 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.raw import Reply, Wire, exchange, request
from tests.rig import Proxy, ProxyFactory, Upstream, config

CHAT = "/v1/chat/completions"
LIMIT = 200_000
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    server = {"max_body": LIMIT}
    return module_proxy(config(upstream_process.model("plain"), server=server))


@pytest.fixture(autouse=True)
def _nothing_goes_upstream_and_it_still_serves(served: Proxy, upstream: Upstream) -> Iterator[None]:
    yield
    expected = [
        body["messages"][-1]
        for body in upstream.journal.bodies()
        if body["messages"][-1]["content"] != "allowed"
    ]
    assert expected == []
    assert exchange(served.port, request("/health/liveliness", method="GET")).status == 200


def ask(served: Proxy, body: bytes | dict[str, Any], **headers: str) -> Reply:
    return exchange(served.port, request(CHAT, body, **{**served.auth, **headers}))


def refused(reply: Reply, status: int, *codes: str, param: str | None = None) -> None:
    assert reply.status == status, reply
    assert reply.headers["content-type"].startswith("application/json")
    assert reply.headers["x-request-id"]
    assert reply.headers["x-should-retry"] == "false"
    error = reply.error()
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert not codes or error["code"] in codes, error
    if param is not None:
        assert error["param"] == param, error


# --- JSON that is none ----------------------------------------------------------------------------

DEEP_TOOLS = b'{"prompt":"x","tools":' + b"[" * 70 + b"]" * 70 + b"}"
BODIES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (b"", ("invalid_json",)),
    "a bracket": (b"{", ("invalid_json",)),
    "an array": (b"[]", ("invalid_type",)),
    "a string": (b'"x"', ("invalid_type",)),
    "a number": (b"1", ("invalid_type",)),
    "null": (b"null", ("invalid_type",)),
    "junk after it": (b'{"prompt": "x"} x', ("invalid_json",)),
    "two of them": (b'{"prompt": "x"}{"prompt": "x"}', ("invalid_json",)),
    "single quotes": (b"{'prompt': 'x'}", ("invalid_json",)),
    "a comment": (b'{"prompt": "x" /* why */}', ("invalid_json",)),
    "a trailing comma": (b'{"prompt": "x",}', ("invalid_json",)),
    "199 000 brackets": (b"[" * 199_000, ("json_too_deep", "invalid_json")),
    "deep braces": (b'{"a":' * 30_000, ("json_too_deep", "invalid_json")),
    "deep tools": (DEEP_TOOLS, ("json_too_deep",)),
    "NaN": (b'{"prompt": "x", "temperature": NaN}', ("invalid_json",)),
    "Infinity": (b'{"prompt": "x", "temperature": -Infinity}', ("invalid_json",)),
    "1e999": (b'{"prompt": "x", "temperature": 1e999}', ("invalid_json", "invalid_value")),
    "400 digits": (
        b'{"prompt": "x", "seed": ' + b"9" * 400 + b"}",
        ("invalid_json", "invalid_value", "invalid_type"),
    ),
    "half a surrogate": (b'{"prompt": "\\ud800"}', ("invalid_encoding",)),
    "a broken byte": (b'{"prompt": "\xff"}', ("invalid_encoding",)),
    "an overlong slash": (b'{"prompt": "\xc0\xaf"}', ("invalid_encoding",)),
    "an encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', ("invalid_encoding",)),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), ("invalid_encoding", "invalid_json")),
    "UTF-32": ('{"prompt": "x"}'.encode("utf-32-le"), ("invalid_encoding", "invalid_json")),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt": "x"}', ("invalid_encoding",)),
    "a bare NUL": (b'{"prompt": "\x00"}', ("invalid_json",)),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_json_object(served: Proxy, name: str) -> None:
    body, codes = BODIES[name]
    refused(ask(served, body), 400, *codes)


def test_nul_in_a_string_is_a_character(served: Proxy, upstream: Upstream) -> None:
    messages = [{"role": "user", "content": "\x00"}, {"role": "user", "content": "allowed"}]
    assert ask(served, {"messages": messages}).status == 200
    assert upstream.journal.bodies()[0]["messages"][1]["content"] == "\x00"


# --- fields ---------------------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "boolean": ["true", 1, 0, [], {}],
    "integer": ["1", 1.5, True, [], {}],
    "number": ["0.5", True, [], {}],
    "string": [1, True, [], {}],
    "array": ["x", 1, True, {}],
    "object": ["x", 1, True, []],
    "string or array": [1, True, {}],
    "string or object": [1, True, []],
}
FIELDS: dict[str, str] = {
    "model": "string",
    "messages": "array",
    "prompt": "string",
    "stream": "boolean",
    "stream_options": "object",
    "max_tokens": "integer",
    "max_completion_tokens": "integer",
    "temperature": "number",
    "top_p": "number",
    "n": "integer",
    "stop": "string or array",
    "presence_penalty": "number",
    "frequency_penalty": "number",
    "logit_bias": "object",
    "logprobs": "boolean",
    "top_logprobs": "integer",
    "seed": "integer",
    "tools": "array",
    "tool_choice": "string or object",
    "parallel_tool_calls": "boolean",
    "functions": "array",
    "function_call": "string or object",
    "response_format": "object",
    "reasoning_effort": "string",
    "modalities": "array",
    "audio": "object",
    "prediction": "object",
    "metadata": "object",
    "store": "boolean",
    "service_tier": "string",
    "user": "string",
    "cache": "object",
}
TYPES = [(field, value) for field, kind in FIELDS.items() for value in WRONG[kind]]


@pytest.mark.parametrize(("field", "value"), TYPES)
def test_a_wrong_type_is_named(served: Proxy, field: str, value: Any) -> None:
    body = {"messages": USER, field: value}
    if field == "prompt":
        del body["messages"]
    if field == "stream_options":
        body["stream"] = True
    refused(ask(served, body), 400, "invalid_type", param=field)


VALUES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "missing_required_parameter", "messages"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": USER, "prompt": "x"}, "invalid_value", "prompt"),
    ({"messages": ["x"]}, "invalid_type", "messages[0]"),
    ({"messages": [{"content": "x"}]}, "missing_required_parameter", "messages[0].role"),
    ({"messages": [*USER, {"role": "robot", "content": "x"}]}, "invalid_value", "messages[1].role"),
    ({"messages": [{"role": 1, "content": "x"}]}, "invalid_type", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 1}]}, "invalid_type", "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "missing_required_parameter", "messages[0].content"),
    ({"messages": USER, "model": ""}, "invalid_value", "model"),
    ({"messages": USER, "max_tokens": 0}, "invalid_value", "max_tokens"),
    ({"messages": USER, "max_tokens": -1}, "invalid_value", "max_tokens"),
    ({"messages": USER, "max_completion_tokens": -1}, "invalid_value", "max_completion_tokens"),
    ({"messages": USER, "n": 0}, "invalid_value", "n"),
    ({"messages": USER, "n": 1_000_000}, "invalid_value", "n"),
    ({"messages": USER, "temperature": -0.1}, "invalid_value", "temperature"),
    ({"messages": USER, "temperature": 1e9}, "invalid_value", "temperature"),
    ({"messages": USER, "top_p": 1.5}, "invalid_value", "top_p"),
    ({"messages": USER, "stop": ["x"] * 10_000}, "invalid_value", "stop"),
    ({"messages": USER, "stop": [1]}, "invalid_type", "stop"),
    ({"messages": USER, "top_logprobs": -1}, "invalid_value", "top_logprobs"),
    ({"messages": USER, "stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
    (
        {"messages": USER, "stream": True, "stream_options": {"include_usage": 1}},
        "invalid_type",
        "stream_options.include_usage",
    ),
]


@pytest.mark.parametrize(("body", "code", "param"), VALUES)
def test_a_wrong_value_is_named(served: Proxy, body: dict[str, Any], code: str, param: str) -> None:
    refused(ask(served, body), 400, code, param=param)


@pytest.mark.parametrize("field", [field for field in FIELDS if field not in ("messages", "prompt")])
def test_null_means_absent(served: Proxy, field: str) -> None:
    messages = [{"role": "user", "content": "allowed"}]
    assert ask(served, {"messages": messages, field: None}).status == 200


def test_of_two_equal_fields_everybody_sees_the_same_one(served: Proxy, upstream: Upstream) -> None:
    body = b'{"model": "nobody", "model": "plain", "messages": [{"role": "user", "content": "allowed"}]}'
    reply = ask(served, body)
    if reply.status != 200:
        return refused(reply, 400, "invalid_json")
    assert reply.headers["x-proxy-model"] == "plain"
    assert [one["model"] for one in upstream.journal.bodies()] == ["plain/ok"]
    assert served.row(reply.headers["x-request-id"])["model_requested"] == "plain"
    return None


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": {}}, "prompt"),
        ("/v1/completions", {"prompt": "x", "suffix": 1}, "suffix"),
        ("/v1/completions", {"prompt": "x", "stream": "yes"}, "stream"),
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": 1}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": "4"}, "dimensions"),
    ],
)
def test_the_other_endpoints_name_what_is_wrong_too(
    served: Proxy, path: str, body: dict[str, Any], param: str
) -> None:
    refused(exchange(served.port, request(path, body, **served.auth)), 400, param=param)


# --- size, type, encoding -------------------------------------------------------------------------


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent(served: Proxy) -> None:
    for length in (str(LIMIT + 1), "99999999999"):
        head = request(CHAT, b"", **{**served.auth, "content-length": length})
        refused(exchange(served.port, head), 413, "request_too_large")


def test_chunks_over_the_limit_are_refused_at_the_limit(served: Proxy) -> None:
    head = request(CHAT, b"", **{**served.auth, "content-length": "", "transfer-encoding": "chunked"})
    block = b"%x\r\n%s\r\n" % (20_000, b" " * 20_000)
    with Wire(served.port) as wire:
        wire.send(head + block * (LIMIT // 20_000 + 1))  # and no last chunk: the limit is what ends it
        refused(wire.reply(), 413, "request_too_large")


def test_a_body_just_under_the_limit_is_read(served: Proxy) -> None:
    filler = " " * (LIMIT - 200)
    body = json.dumps({"messages": [{"role": "user", "content": "allowed"}]}).encode() + filler.encode()
    assert ask(served, body).status == 200


def test_a_body_shorter_than_its_length_goes_nowhere(served: Proxy) -> None:
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
def test_json_is_json_however_it_is_spelled(served: Proxy, kind: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "allowed"}]}).encode()
    assert ask(served, body, **{"content-type": kind}).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, identity", "nonsense"])
def test_encoded_bodies_are_refused_unread(served: Proxy, encoding: str) -> None:
    reply = ask(served, b"\x1f\x8b" + b"x" * 100, **{"content-encoding": encoding})
    refused(reply, 415, "unsupported_content_encoding")


def test_a_wrong_key_is_refused_before_anything_is_read(served: Proxy) -> None:
    headers = {"authorization": "Bearer sk-nobody", "content-length": "150000", "expect": "100-continue"}
    refused(exchange(served.port, request(CHAT, b"", **headers)), 401, "invalid_api_key")


# --- paths and methods ----------------------------------------------------------------------------

PATHS = [
    "/",
    "/nope",
    "/v1",
    "/v1/nope",
    "/v1/chat",
    "/v1/chat/completions/extra",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat%2fcompletions/x",
    "/v1/chat/completions%00",
    "/v1/v1/chat/completions",
    "/V1/CHAT/COMPLETIONS",
    "/v1/../key/list",
    "/v1/chat/completions/../../../key/list",
    "/%2e%2e/key/list",
    "/key%2flist%00",
    "/..%5ckey",
    "/" + "a" * 8000,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_not_found(served: Proxy, path: str, method: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method=method, **served.auth), method=method)
    assert reply.status in (400, 403, 404, 405), reply
    refused(reply, reply.status)


@pytest.mark.parametrize(
    "path", ["*", "http://proxy/v1/nope", "v1/chat/completions", "/\x01", "/v1/nope?" + "q" * 60_000]
)
def test_an_odd_target_is_refused(served: Proxy, path: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method="GET", **served.auth), method="GET")
    assert reply.status in (400, 403, 404, 405, 414, 431), reply
    assert reply.error()["code"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", [CHAT, "/key/generate", "/v1/embeddings"])
def test_a_wrong_method_is_named(served: Proxy, path: str, method: str) -> None:
    reply = exchange(served.port, request(path, b"{}", method=method, **served.auth), method=method)
    refused(reply, 405, "method_not_allowed")
    assert "POST" in reply.headers["allow"]


@pytest.mark.parametrize("method", ["BREW", "connect", "\x00", "GET\tPOST", "A" * 5000])
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
def test_doubtful_framing_is_refused(served: Proxy, name: str) -> None:
    reply = exchange(served.port, lines(served, *FRAMING[name]) + BODY)
    assert reply.status in (400, 501), reply
    assert reply.error()["code"]


@pytest.mark.parametrize("count", [1, 5000])
def test_huge_headers_are_refused(served: Proxy, count: int) -> None:
    more = [f"x-many-{i}: {'v' * (300_000 // count)}" for i in range(count)]
    reply = exchange(served.port, lines(served, "host: p", *more, "content-length: 2") + b"{}")
    assert reply.status in (400, 431), reply
    assert reply.error()["code"]


def test_two_keys_are_not_guessed_between(served: Proxy) -> None:
    reply = exchange(served.port, lines(served, "host: p", "authorization: Bearer sk-other", LENGTH) + BODY)
    assert reply.status in (400, 401), reply
    assert reply.error()["code"]


def test_a_clients_request_id_is_not_repeated(served: Proxy) -> None:
    given = "mine-\x1b[31m-id"
    reply = ask(served, {"messages": [{"role": "user", "content": "allowed"}]}, **{"x-request-id": given})
    assert reply.status == 200
    assert "mine" not in reply.headers["x-request-id"]


def test_control_characters_stay_out_of_headers_and_log_lines(served: Proxy) -> None:
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
