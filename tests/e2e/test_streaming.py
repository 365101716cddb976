"""Streams as they are on the socket: when chunks arrive, how they end, what odd upstreams make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.raw_http import Wire, request
from tests.support.upstream.process import Upstream

ODD = [
    "crlf",
    "cr",
    "tight",
    "comments",
    "comments;crlf",
    "byte_by_byte",
    "bom",
    "multiline",
    "http10",
    "trailers",
    "continue100",
    "no_done",
    "bad_headers",
    "close",
    "no_usage",
    "usage_with_finish",
]
CUT = [  # tokens apart, so that the first is out before the failure comes
    f"{how};every=0.02"
    for how in ("cut=3", "cut_open=3", "cut_clean=3", "stall=3", "error_event_after=3", "bad_line=3")
]
HARD_TEXT = (
    'a\n\ndata: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n\r\u2028\u2029\x00\x85 \u00e9\U0001f9ea end'
)


@pytest.fixture(scope="module")
def served(upstream_process: Upstream, module_proxy: ProxyFactory) -> Proxy:
    model = upstream_process.model
    quoted = "".join(f"%{byte:02x}" for byte in HARD_TEXT.encode())
    return module_proxy(
        config(
            model("plain"),
            model("gated", "gate=3"),
            model("hard", f"say={quoted}"),
            *(model(f"odd-{i}", how) for i, how in enumerate(ODD)),
            *(
                model(
                    f"cut-{i}", how, fallbacks=["spare"], timeouts={"idle": "1s" if "stall" in how else "20s"}
                )
                for i, how in enumerate(CUT)
            ),
            model("swollen", "big_line=17000000", fallbacks=["spare"]),
            model("spare"),
        )
    )


def ask(served: Proxy, model: str, **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True, **more}
    return request("/v1/chat/completions", body, **served.auth)


def events(lines: Iterator[bytes]) -> Iterator[str]:
    """The data of a stream as strict clients read it: one `data: ` line, then an empty one."""
    for line in lines:
        if line.startswith(b":"):
            assert next(lines) == b"\n"
            continue
        assert line.startswith(b"data: "), line
        assert line.endswith(b"\n"), line
        assert next(lines) == b"\n"
        yield line[6:-1].decode()


def stream(served: Proxy, model: str, **more: Any) -> list[str]:
    with Wire(served.port) as wire:
        return list(events(wire.send(ask(served, model, **more)).lines()))


def text(data: list[str]) -> str:
    chunks = [json.loads(one) for one in data if one != "[DONE]"]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", [])
    )


def test_the_first_chunk_arrives_before_the_upstream_has_sent_its_last(
    served: Proxy, upstream: Upstream
) -> None:
    with Wire(served.port) as wire:
        data = events(wire.send(ask(served, "gated")).lines())
        early = [next(data)]
        while "gated-2" not in early[-1]:
            early.append(next(data))
        until(lambda: len(upstream.journal.events("sent")) == 3 or None, "the record of what was sent")
        assert upstream.journal.events("finished") == []
        upstream.open_gate("gated")
        whole = early + list(data)
    assert whole[-1] == "[DONE]"
    assert text(whole) == " ".join(f"gated-{i}" for i in range(8))


def test_a_stream_has_one_id_and_one_model(served: Proxy) -> None:
    *chunks, done = stream(served, "plain")
    assert done == "[DONE]"
    found = [json.loads(chunk) for chunk in chunks]
    assert len({chunk["id"] for chunk in found}) == 1
    assert len({chunk["created"] for chunk in found}) == 1
    assert {chunk["model"] for chunk in found} == {"plain/ok"}
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    finishes = [choice["finish_reason"] for chunk in found for choice in chunk["choices"]]
    assert [finish for finish in finishes if finish] == ["stop"]


@pytest.mark.parametrize("asked", [None, False, True])
def test_usage_is_always_requested_upstream_but_shown_only_on_request(
    served: Proxy, upstream: Upstream, asked: bool | None
) -> None:
    more = {} if asked is None else {"stream_options": {"include_usage": asked}}
    chunks = [json.loads(one) for one in stream(served, "plain", **more)[:-1]]
    shown = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert shown == (upstream.journal.usages() if asked else [])
    assert [chunk for chunk in chunks if not chunk["choices"]] == (chunks[-1:] if asked else [])
    assert upstream.journal.bodies()[0]["stream_options"]["include_usage"] is True


@pytest.mark.parametrize("how", ODD)
def test_unusual_but_valid_streams_have_the_same_content(served: Proxy, how: str) -> None:
    label = f"odd-{ODD.index(how)}"
    data = stream(served, label)
    assert text(data) == " ".join(f"{label}-{i}" for i in range(8))
    assert data.count("[DONE]") == 1
    assert data[-1] == "[DONE]"


def test_text_that_looks_like_sse_stays_text(served: Proxy) -> None:
    data = stream(served, "hard")
    assert text(data) == HARD_TEXT
    assert data[-1] == "[DONE]"


@pytest.mark.parametrize("how", CUT)
def test_a_failure_after_the_first_token_is_one_error_event_without_done(
    served: Proxy, upstream: Upstream, how: str
) -> None:
    label = f"cut-{CUT.index(how)}"
    *chunks, last = stream(served, label)
    assert text(chunks) == f"{label}-0 {label}-1 {label}-2 "
    error = json.loads(last)["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert not [chunk for chunk in chunks if "error" in json.loads(chunk)]
    assert upstream.journal.models() == [label], "nothing else may continue a stream that began"


def test_an_oversized_event_ends_the_stream(served: Proxy, upstream: Upstream) -> None:
    *chunks, last = stream(served, "swollen")
    assert text(chunks) == "swollen-0 "
    assert json.loads(last)["error"]["code"]
    assert upstream.journal.models() == ["swollen"]


def test_stream_headers_name_type_and_deployment(served: Proxy) -> None:
    with Wire(served.port) as wire:
        reply = wire.send(ask(served, "plain")).reply()
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert "no-cache" in reply.headers["cache-control"]
    assert reply.headers["x-proxy-model"] == "plain"
    assert reply.headers["x-proxy-deployment"] == "plain#1"
    assert reply.headers["x-request-id"]


def test_a_connection_is_reusable_after_a_stream(served: Proxy) -> None:
    with Wire(served.port) as wire:
        first = wire.send(ask(served, "plain")).reply()
        second = wire.send(ask(served, "plain")).reply()
    assert first.status == second.status == 200
    assert second.body.endswith(b"data: [DONE]\n\n")


def test_only_allow_listed_upstream_headers_are_passed_on(served: Proxy) -> None:
    with Wire(served.port) as wire:
        reply = wire.send(ask(served, f"odd-{ODD.index('bad_headers')}")).reply()
    leaked = {"set-cookie", "x-goog-api-key", "x-debug", "proxy-authenticate"} & reply.headers.keys()
    assert not leaked
    assert "secret" not in str(reply.headers)
