"""AI21's chat on loopback: refuses what AI21 refuses, and says what the last message asks for.

weather     calls the tool `get_weather`
overflow    the prompt is too long; `limited`, `unwell`: refuses for that reason
break       breaks off in the middle of a stream with an error, `hang up` without a word
else        is repeated
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tests.support.conversations import sse
from tests.support.dialects.ai21 import call, chunk, stream, whole
from tests.support.dialects.loopback import (
    SSE,
    Asked,
    CannedResponse,
    check_results,
    check_tools,
    last_text,
    need,
    only,
    told,
)

KEY = "ai21-of-the-tests"
FIELDS = {
    *("model", "messages", "stream", "tools", "documents", "response_format"),
    *("max_tokens", "temperature", "top_p", "stop", "n"),
}
FAULTS: Mapping[str, tuple[int, Any]] = {
    "overflow": (422, [{"loc": ["body"], "msg": "Prompt is too long: 300000 tokens", "type": "value_error"}]),
    "limited": (429, "Too many requests"),
    "unwell": (500, "Internal error"),
}


def answer(asked: Asked) -> CannedResponse:
    if (asked.method, asked.path) != ("POST", "/studio/v1/chat/completions"):
        return told(404, {"detail": f"no {asked.path}"})
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return told(401, {"detail": "Forbidden: Bad or missing API token."})
    check(asked.body)
    text = last_text(asked.body["messages"])
    if text in FAULTS:
        status, why = FAULTS[text]
        wait = {"retry_after": "7"} if text == "limited" else {}
        return told(status, {"detail": why}, **wait)
    return streamed(text, asked.body) if asked.body.get("stream") else answer_for(text, asked.body)


def answer_for(text: str, body: Mapping[str, Any]) -> CannedResponse:
    if text == "weather" and body.get("tools"):
        called = {"content": None, "tool_calls": [call("get_weather", '{"city":"Oslo"}')]}
        return told(200, json.loads(whole(called, "tool_calls")))
    return told(200, json.loads(whole({"content": f"You said: {text}"})))


def streamed(text: str, body: Mapping[str, Any]) -> CannedResponse:
    if text == "weather" and body.get("tools"):
        called = {"tool_calls": [{"index": 0, **call("get_weather", '{"city":"Oslo"}')}]}
        return CannedResponse(200, [stream(chunk(called), chunk({}, "tool_calls"))], SSE)
    words = [chunk({"content": "You said: "}), chunk({"content": text})]
    if text == "hang up":
        return CannedResponse(200, [sse(*words), 0.1], SSE)
    if text == "break":
        return CannedResponse(200, [sse(*words), 0.1, sse({"detail": "Internal error"})], SSE)
    return CannedResponse(200, [stream(*words, chunk({"content": ""}, "stop"))], SSE)


# --- rules ---------------------------------------------------------------------------------------------------


def check(body: Mapping[str, Any]) -> None:
    """Raises `Refused`."""
    only(body, FIELDS, "body")
    need(body.get("n", 1) == 1 or not body.get("stream"), "n")
    need(body.get("response_format", {"type": "text"})["type"] in ("text", "json_object"), "response_format")
    check_tools(body)
    for one in body["messages"]:
        only(one, ("role", "content", "tool_calls", "tool_call_id"), "a message")
        need(one["role"] in ("system", "user", "assistant", "tool"), "role")
        need(
            isinstance(one.get("content", "" if one.get("tool_calls") else None), str), "content is a string"
        )
    roles = [one["role"] for one in body["messages"]]
    need("system" not in roles[1:], "the system message comes first, and once")
    for before, after in pairwise(roles):
        need(before != after or before == "tool", "roles take turns")
    check_results(body["messages"])
