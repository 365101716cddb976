"""A Messages API on loopback that calls a shell tool once. It accepts every field."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.dialects.anthropic import MESSAGE, USAGE, end, events, start
from tests.support.dialects.anthropic_server import block_events
from tests.support.upstream import shell


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "count_tokens" in self.path:
            return self._send("application/json", json.dumps({"input_tokens": 1000}).encode())
        content, reason = answer(body)
        named = {"model": body["model"]}
        if body.get("stream"):
            blocks = [piece for index, one in enumerate(content) for piece in block_events(index, one)]
            stream = events(start(**named), {"type": "ping"}, *blocks, *end(reason))
            return self._send("text/event-stream; charset=utf-8", stream)
        ended = {"stop_reason": reason, "stop_sequence": None, "usage": USAGE}
        return self._send(
            "application/json", json.dumps({**MESSAGE, **named, "content": content, **ended}).encode()
        )

    def _send(self, content_type: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        self.send_header("request-id", "req_of_the_upstream")
        self.end_headers()
        self.wfile.write(data)


def answer(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The content of the answer and its stop reason."""
    if call := shell.call(body):
        name, arguments = call
        use = {"type": "tool_use", "id": "toolu_shell", "name": name, "input": json.loads(arguments)}
        return [{"type": "text", "text": "I will run it."}, use], "tool_use"
    return [{"type": "text", "text": shell.summary(body)}], "end_turn"


@contextmanager
def serving() -> Iterator[str]:
    """Its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
