"""An upstream that repeats our credentials in successful answers: neither clients nor the cache get them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.proxy_process import Proxy, ProxyFactory, config
from tests.support.stored import kept

KEY = "own/api-key+7Qx93kdLw"
HEADER = "own-header-value-Zr93kdLw"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class Repeating(BaseHTTPRequestHandler):
    """Answers in OpenAI's or Anthropic's form, with the request's credentials in every field with room for text."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("x-api-key") or self.headers["authorization"].removeprefix("Bearer ")
        leaked = f"{key} and {self.headers['x-custom']}"
        native = self.path.endswith("/messages")
        if asked.get("stream"):
            pieces = _anthropic_events(leaked) if native else _openai_chunks(leaked)
            self._send("text/event-stream", "".join(pieces).encode())
        else:
            whole = json.dumps(_anthropic(leaked) if native else _openai(leaked))
            self._send("application/json", whole.replace("/", "\\/").encode())

    def _send(self, kind: str, content: bytes) -> None:
        """In two parts, cut in the middle of the last credential."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        middle = content.rfind(HEADER.encode()) + 10
        self.wfile.write(content[:middle])
        self.wfile.flush()
        time.sleep(0.05)
        self.wfile.write(content[middle:])


def _openai(leaked: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"I am {leaked}.", "unknown": leaked}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**_metadata(leaked, "chat.completion"), "choices": [choice], "usage": USAGE}


def _metadata(leaked: str, kind: str) -> dict[str, Any]:
    named = dict.fromkeys(("id", "model", "system_fingerprint", "service_tier", "provider"), leaked)
    return {**named, "object": kind, "created": 1}


def _openai_chunks(leaked: str) -> Iterator[str]:
    head = _metadata(leaked, "chat.completion.chunk")
    for delta, reason in (
        ({"role": "assistant", "content": f"I am {leaked}.", "unknown": leaked}, None),
        ({}, "stop"),
    ):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"


def _anthropic(leaked: str) -> dict[str, Any]:
    content = [{"type": "text", "text": f"I am {leaked}."}]
    usage = {"input_tokens": 3, "output_tokens": 4}
    head = {"id": leaked, "type": "message", "role": "assistant", "model": leaked}
    return {**head, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def _anthropic_events(leaked: str) -> Iterator[str]:
    start = {**_anthropic(leaked), "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": f"I am {leaked}."},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    for event in events:
        yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"


@pytest.fixture(scope="module")
def served(module_proxy: ProxyFactory) -> Iterator[Proxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repeating)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    models = [
        {
            "name": provider,
            "provider": provider,
            "model": "m",
            "base_url": f"http://127.0.0.1:{server.server_port}/v1",
            "api_key": "${OWN_KEY}",
            "headers": {"x-custom": "${OWN_HEADER}"},
            "price": {"input": 1, "output": 1},
        }
        for provider in ("openai_compatible", "anthropic")
    ]
    text = config(*models, cache={"enabled": True})
    yield module_proxy(text, env={"OWN_KEY": KEY, "OWN_HEADER": HEADER})
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["openai_compatible", "anthropic"])
def test_answers_contain_no_credential(served: Proxy, model: str, stream: bool) -> None:
    messages = [{"role": "user", "content": f"streamed: {stream}"}]
    for cached in ("miss", "hit"):
        answer = served.chat(model=model, stream=stream, messages=messages)
        assert (answer.status_code, answer.headers["x-proxy-cache"]) == (200, cached), answer.text
        assert "I am [removed] and [removed]." in answer.text
        shown = f"{answer.text.replace(chr(92), '')} {answer.headers.raw}"
        assert KEY not in shown
        assert HEADER not in shown
    for name, data in kept(served, "proxy*.db*").items():
        found = data.replace(b"\\", b"")
        assert KEY.encode() not in found, name
        assert HEADER.encode() not in found, name
