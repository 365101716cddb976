"""Strangers' bytes: the answer is our JSON error, nothing goes upstream, nothing is ever 500."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cases import each
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Reply, exchange, refused, request
from tests.support.upstream.process import Upstream

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    return module_proxy(config(upstream_process.model("plain")))


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


def ask(served: Proxy, body: bytes | dict[str, Any], **headers: str) -> Reply:
    return exchange(served.port, request(CHAT, body, **{**served.auth, **headers}))


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
def test_a_body_that_is_not_a_json_object_is_refused(served: Proxy, name: str) -> None:
    body, codes = BODIES[name]
    refused(ask(served, body), 400, *codes)


def test_a_nul_in_a_string_is_accepted(served: Proxy, upstream: Upstream) -> None:
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


@each(("field", "value"), TYPES)
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


@each(("body", "code", "param"), VALUES)
def test_a_wrong_value_is_named(served: Proxy, body: dict[str, Any], code: str, param: str) -> None:
    refused(ask(served, body), 400, code, param=param)


@each("field", [field for field in FIELDS if field not in ("messages", "prompt")])
def test_null_means_absent(served: Proxy, field: str) -> None:
    messages = [{"role": "user", "content": "allowed"}]
    assert ask(served, {"messages": messages, field: None}).status == 200


def test_one_of_two_duplicate_fields_is_used_everywhere(served: Proxy, upstream: Upstream) -> None:
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
def test_other_endpoints_name_the_invalid_field(
    served: Proxy, path: str, body: dict[str, Any], param: str
) -> None:
    refused(exchange(served.port, request(path, body, **served.auth)), 400, param=param)
