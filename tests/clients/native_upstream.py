"""Anthropic's Messages and OpenAI's Responses on loopback: calls a shell tool once. Accepts every field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.dialects import anthropic, responses
from tests.support.dialects.loopback import SSE, Asked, CannedResponse, Server, serving, told
from tests.support.upstream import shell


@contextmanager
def native_upstream() -> Iterator[Server]:
    with serving(_answer) as server:
        yield server


def _answer(asked: Asked) -> CannedResponse:
    match asked.path.partition("?")[0].rpartition("/")[2]:
        case "messages":
            return _message(asked.body)
        case "responses":
            return _response(asked.body)
        case "count_tokens" | "input_tokens":
            return told(200, {"input_tokens": 1000})
    return told(404, {"error": {"message": f"no {asked.path}", "type": "invalid_request_error"}})


def _message(body: Mapping[str, Any]) -> CannedResponse:
    call = shell.call(body)
    text = "I will run it." if call else shell.summary(body)
    reason = "tool_use" if call else "end_turn"
    if body.get("stream"):
        called = anthropic.called(1, *call) if call else []
        start = anthropic.events(anthropic.start(model=body["model"]), {"type": "ping"})
        rest = anthropic.events(*anthropic.text(0, text), *called, *anthropic.end(reason))
        return CannedResponse(200, [start + rest], SSE)
    tools = [anthropic.tool(call[0], json.loads(call[1]))] if call else []
    return CannedResponse(200, [anthropic.whole(reason, {"type": "text", "text": text}, *tools)])


def _response(body: Mapping[str, Any]) -> CannedResponse:
    call = shell.call(body)
    items = [responses.message("I will run it." if call else shell.summary(body))]
    if call:
        items.append(responses.function_call(*call, 1))
    if body.get("stream"):
        return CannedResponse(200, [responses.stream(*items)], SSE)
    return CannedResponse(200, [responses.whole(*items)])
