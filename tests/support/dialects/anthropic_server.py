"""A Messages API on loopback: refuses what Anthropic refuses, and says what the last user message asks for.

weather        calls the tool `get_weather` (twice, with `weather twice`)
think          thinks before it answers
overflow       the prompt is too long
limited, spent, overloaded, unpaid    refuses for that reason
refuse         ends with a refusal
break          breaks off in the middle of a stream with an error event, `hang up` without a word
anything else  is repeated
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.dialects import anthropic_rules
from tests.support.dialects.anthropic import MESSAGE, USAGE, block, end, events, start, text, thinking

KEY = "sk-ant-of-the-tests"
FAULTS: Mapping[str, tuple[int, str, str]] = {
    "overflow": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    "limited": (429, "rate_limit_error", "This request would exceed your rate limit."),
    "spent": (429, "rate_limit_error", "You have reached your spend limit."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "unpaid": (401, "authentication_error", "invalid x-api-key"),
}
BROKEN: Mapping[str, bytes] = {
    "break": events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    "hang up": b"",
}
DETAILS = {"spent": {"error_code": "enforced_spend_limit_reached"}}


class Server:
    """Holds what it was sent, newest last."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refused: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_of": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def body(self) -> dict[str, Any]:
        """The last request."""
        return self.bodies[-1]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self.path.partition("?")[0] != "/v1/messages":
            return self._error(404, "not_found_error", f"no {self.path}")
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        if KEY not in (self.headers.get("x-api-key"), bearer):
            return self._error(401, "authentication_error", "invalid x-api-key")
        body = json.loads(raw)
        self.server_of.bodies.append(body)
        self.server_of.headers.append({name.lower(): value for name, value in self.headers.items()})
        try:
            anthropic_rules.check(body, self.headers.get("anthropic-version"))
        except anthropic_rules.Refused as why:
            self.server_of.refused.append(str(why))
            return self._error(400, "invalid_request_error", str(why))
        return self._answer(body)

    def _answer(self, body: Mapping[str, Any]) -> None:
        asked = last_text(body["messages"])
        if asked in FAULTS:
            return self._error(*FAULTS[asked], details=DETAILS.get(asked))
        content, reason, more = answer_for(asked, body)
        if not body.get("stream"):
            whole = {**MESSAGE, "model": body["model"], "content": content, "usage": USAGE, **more}
            return self._json(200, {**whole, "stop_reason": reason, "stop_sequence": None})
        pieces = [start(model=body["model"]), {"type": "ping"}]
        for index, one in enumerate(content):
            pieces += block_events(index, one)
        if asked in BROKEN:
            return self._break_off(events(*pieces), BROKEN[asked])
        return self._send(200, "text/event-stream; charset=utf-8", events(*pieces, *end(reason, **more)))

    def _break_off(self, begun: bytes, rest: bytes) -> None:
        """The rest comes in a packet of its own, and then no more."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(begun)
        time.sleep(0.1)
        self.wfile.write(rest)

    def _error(self, status: int, kind: str, message: str, details: Any = None) -> None:
        error = {"type": kind, "message": message, **({"details": details} if details else {})}
        self._json(status, {"type": "error", "error": error, "request_id": "req_011"})

    def _json(self, status: int, found: Any) -> None:
        self._send(status, "application/json", json.dumps(found).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("request-id", "req_011")
        if status == 429 and b"spend" not in body:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)


def last_text(messages: list[Mapping[str, Any]]) -> str:
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    last = content[-1]
    return str(last.get("text", last.get("content", last["type"])))


def answer_for(asked: str, body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    """The content of the answer, why it ends, and what else is said of that."""
    answer = {"type": "text", "text": f"You said: {asked}"}
    if asked.startswith("weather") and body.get("tools"):
        cities = ["Oslo", "Bergen"] if "twice" in asked else ["Oslo"]
        uses = [
            {"type": "tool_use", "id": f"toolu_{city}", "name": "get_weather", "input": {"city": city}}
            for city in cities
        ]
        return [{"type": "text", "text": "Let me look."}, *uses], "tool_use", {}
    if asked == "think":
        return [{"type": "thinking", "thinking": "Well, hm.", "signature": "c2ln"}, answer], "end_turn", {}
    if asked == "refuse":
        return [], "refusal", {"stop_details": {"type": "refusal", "explanation": "Not that."}}
    return [answer], "end_turn", {}


def block_events(index: int, one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A block in pieces."""
    if one["type"] == "text":
        return text(index, one["text"][:4], one["text"][4:])
    if one["type"] == "thinking":
        return thinking(index, one["signature"], one["thinking"][:5], one["thinking"][5:])
    answer_for = json.dumps(one["input"])
    pieces = [
        {"type": "input_json_delta", "partial_json": part} for part in ("", answer_for[:5], answer_for[5:])
    ]
    return block(index, {**one, "input": {}}, *pieces)
