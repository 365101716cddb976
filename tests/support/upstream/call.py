"""One call to the upstream, and the heads and error bodies every answer is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.upstream.script import Step
from tests.support.upstream.wire import Connection, Received

JSON = "application/json"
SSE = "text/event-stream"
SETTLE = 0.15
"""Seconds before a reset, so that what was sent before it arrives."""

CODES = {400: "invalid_value", 401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


class EndedError(Exception):
    """The script ended the connection itself."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and what is to be done about it."""

    number: int
    request: Received
    body: Mapping[str, Any]
    step: Step
    connection: Connection
    gate: asyncio.Event

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def asked_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


def error(step: Step) -> dict[str, Any]:
    """OpenAI's error body."""
    status = int(step.number("status", 500))
    kind = step.text("type", "server_error" if status >= 500 else "invalid_request_error")
    code = step.text("code", CODES.get(status, "")) or None
    message = step.text("message", f"{step.label} failed with {status}.")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def retry_headers(step: Step) -> dict[str, str]:
    names = {"retry_after": "retry-after", "retry_after_ms": "retry-after-ms"}
    return {header: step.text(word) for word, header in names.items() if word in step}


def head(step: Step, status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers, odd ones included."""
    lines = [f"HTTP/{'1.0' if 'http10' in step else '1.1'} {status} Scripted"]
    given = {"x-request-id": f"up-{step.label}", **headers}
    if "no_content_type" in step:
        given.pop("content-type", None)
    if "close" in step:
        given["connection"] = "close"
    if "huge_header" in step:
        given["x-huge"] = "h" * 65536
    lines += [f"{name}: {value}" for name, value in given.items()]
    if "bad_headers" in step:
        lines += ["set-cookie: session=stolen", "x-goog-api-key: leaked-secret", "x-debug: internal"]
        lines += ["keep-alive: timeout=1", "proxy-authenticate: Basic", "server: secret-server"]
    if "many_headers" in step:
        lines += [f"x-many-{i}: {i}" for i in range(1000)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def break_off(call: Call) -> None:
    if "stall" in call.step:
        await call.connection.hang()
    await asyncio.sleep(SETTLE)
    if "cut" in call.step:
        await call.connection.reset()
    raise EndedError
