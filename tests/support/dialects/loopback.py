"""A provider on loopback, in a thread: hears whole requests, and answers with the pieces its dialect decides."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = "application/json"
SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Any


@dataclass(frozen=True, slots=True)
class CannedResponse:
    """An answer: bytes, and seconds of silence between them."""

    status: int
    pieces: Iterable[bytes | float]
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):  # noqa: N818 - it is what a server does
    """A request that breaks the provider's rules, and why."""


def told(status: int, body: Any, **headers: str) -> CannedResponse:
    """A whole JSON answer; header names with `_` for `-`."""
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return CannedResponse(status, [json.dumps(body).encode()], JSON, shown)


class Server:
    """Remembers what it was asked, newest last."""

    def __init__(self, answer: Callable[[Asked], CannedResponse]) -> None:
        self.asked: list[Asked] = []
        self.refused: list[str] = []
        """Requests that no proxy of ours should have sent."""
        self.answer = answer
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_of": self}))
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def body(self) -> Any:
        """The last request's."""
        return self.asked[-1].body

    @property
    def paths(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


@contextmanager
def serving(answer: Callable[[Asked], CannedResponse]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # whoever talks to us may leave at any time
            super().handle()

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, self.path, headers, json.loads(raw) if raw else None)
        self.server_of.asked.append(asked)
        try:
            answer = self.server_of.answer(asked)
        except Refused as why:
            self.server_of.refused.append(str(why))
            answer = told(422, {"message": str(why), "detail": str(why)})
        self._send(answer)

    def _send(self, answer: CannedResponse) -> None:
        """A stream ends with its connection."""
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.content_type == JSON:
            body = b"".join(piece for piece in answer.pieces if isinstance(piece, bytes))
            self.send_header("content-length", str(len(body)))
            pieces: Iterable[bytes | float] = [body]
        else:
            self.send_header("connection", "close")
            self.close_connection = True
            pieces = answer.pieces
        self.end_headers()
        try:
            for piece in pieces:
                time.sleep(piece) if isinstance(piece, float) else self.wfile.write(piece)
        except ConnectionError:
            self.close_connection = True


# --- rules ---------------------------------------------------------------------------------------------------


def need(condition: object, why: str) -> None:
    if not condition:
        raise Refused(why)


def only(found: Mapping[str, Any], allowed: Iterable[str], of: str) -> None:
    """Providers that know their fields refuse all others."""
    strange = found.keys() - set(allowed)
    need(not strange, f"{of}: unknown fields {sorted(strange)}")


def check_tools(body: Mapping[str, Any]) -> None:
    """Function tools, each described in full."""
    for tool in body.get("tools", []):
        only(tool, ("type", "function"), "tools")
        only(tool["function"], ("name", "description", "parameters"), "tools.function")
        need(tool["type"] == "function" and isinstance(tool["function"].get("parameters"), dict), "tools")


def check_results(messages: Iterable[Mapping[str, Any]]) -> None:
    """Every call is answered at once, and nothing else is."""
    open_calls: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            need(message.get("tool_call_id") in open_calls, "a result of no call")
            open_calls.discard(message["tool_call_id"])
            continue
        need(not open_calls, "a call without its result")
        for call in message.get("tool_calls", ()):
            only(call, ("id", "type", "function"), "tool_calls")
            need(isinstance(json.loads(call["function"]["arguments"]), dict), "arguments")
            open_calls.add(call["id"])
    need(not open_calls, "a call without its result")


def last_text(messages: list[Mapping[str, Any]]) -> str:
    content = messages[-1].get("content") or ""
    return content if isinstance(content, str) else str(content[-1].get("text", ""))


def reply_to(said: str) -> str:
    """What comes after `say `, or a repetition."""
    return said.removeprefix("say ") if said.startswith("say ") else f"You said: {said}"
