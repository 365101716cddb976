"""Cohere's v2 chat on loopback: refuses what Cohere refuses, and says what the last message asks for.

weather     plans, and calls the tool `get_weather`
think       thinks before it answers
overflow    the prompt is too long; `limited`, `spent`, `unwell`: refuses for that reason
break       breaks off in the middle of a stream with an error, `hang up` without a word
say X       says X
else        is repeated
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.dialects.cohere import USAGE, block, call, called, end, events, message, start
from tests.support.dialects.loopback import (
    SSE,
    Asked,
    CannedResponse,
    check_results,
    check_tools,
    last_text,
    need,
    only,
    reply_to,
    told,
)

KEY = "co-of-the-tests"
FIELDS = {
    *("model", "messages", "stream", "tools", "strict_tools", "tool_choice", "max_tokens", "stop_sequences"),
    *("temperature", "seed", "frequency_penalty", "presence_penalty", "k", "p", "logprobs"),
    *("response_format", "documents", "citation_options", "safety_mode", "thinking", "priority"),
}
BOUNDS = {
    "p": (0.01, 0.99),
    "k": (0, 500),
    "frequency_penalty": (0, 1),
    "presence_penalty": (0, 1),
    "temperature": (0, 2),
}
OF_ROLE = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "tool_plan"},
    "tool": {"role", "content", "tool_call_id"},
}
FAULTS: Mapping[str, tuple[int, str]] = {
    "overflow": (400, "too many tokens: size limit exceeded by 1121 tokens."),
    "limited": (429, "Please wait and try again later"),
    "spent": (429, "You are using a Trial key, which is limited to 1000 API calls / month."),
    "unwell": (500, "internal server error"),
}


def answer(asked: Asked) -> CannedResponse:
    if (asked.method, asked.path) != ("POST", "/v2/chat"):
        return told(404, {"message": f"no {asked.path}"})
    if asked.headers.get("authorization") != f"Bearer {KEY}":
        return told(401, {"id": "e1", "message": "invalid api token"})
    check(asked.body)
    text = last_text(asked.body["messages"])
    if text in FAULTS:
        status, why = FAULTS[text]
        wait = {"retry_after": "7"} if text == "limited" else {}
        return told(status, {"id": "e1", "message": why}, **wait)
    return streamed(text, asked.body) if asked.body["stream"] else whole(text, asked.body)


def whole(text: str, body: Mapping[str, Any]) -> CannedResponse:
    content: list[dict[str, Any]] = [{"type": "text", "text": reply_to(text)}]
    if calls_tool(text, body):
        assistant_message: dict[str, Any] = {
            "tool_plan": "I look.",
            "tool_calls": [call("get_weather", '{"city":"Oslo"}')],
        }
    elif text == "think":
        assistant_message = {"content": [{"type": "thinking", "thinking": "Well, hm."}, *content]}
    else:
        assistant_message = {"content": content}
    reason = "TOOL_CALL" if "tool_calls" in assistant_message else "COMPLETE"
    shown = {"role": "assistant", **assistant_message}
    return told(200, {"id": "c-1", "finish_reason": reason, "message": shown, "usage": USAGE})


def streamed(text: str, body: Mapping[str, Any]) -> CannedResponse:
    begun = [start(), *(block(0, "thinking", "Well, ", "hm.") if text == "think" else ())]
    if calls_tool(text, body):
        plan = {"type": "tool-plan-delta", **message({"tool_plan": "I look."})}
        rest = [plan, *called(0, "get_weather", '{"city":', '"Oslo"}'), end("TOOL_CALL")]
        return CannedResponse(200, [events(*begun, *rest)], SSE)
    assistant_message = block(
        len(begun) > 1, "text", *([reply_to(text)] if text.startswith("say ") else ["You said: ", text])
    )
    if text == "hang up":
        return CannedResponse(200, [events(*begun, *assistant_message[:2]), 0.1], SSE)
    if text == "break":
        return CannedResponse(200, [events(*begun, *assistant_message), 0.1, events(end("ERROR"))], SSE)
    return CannedResponse(200, [events(*begun, *assistant_message), events(end("COMPLETE"))], SSE)


def calls_tool(text: str, body: Mapping[str, Any]) -> bool:
    return text == "weather" and bool(body.get("tools")) and body.get("tool_choice") != "NONE"


# --- rules ---------------------------------------------------------------------------------------------------


def check(body: Mapping[str, Any]) -> None:
    """Raises `Refused`."""
    only(body, FIELDS, "body")
    need(isinstance(body["stream"], bool), "stream")
    for name, (least, most) in BOUNDS.items():
        need(least <= body.get(name, least) <= most, f"{name} must be between {least} and {most}")
    stops = body.get("stop_sequences", [])
    need(isinstance(stops, list) and len(stops) <= 5, "stop_sequences")
    need(body.get("tool_choice", "NONE") in ("REQUIRED", "NONE"), "tool_choice")
    need("tool_choice" not in body or body.get("tools"), "tool_choice without tools")
    check_format(body)
    check_tools(body)
    for one in body["messages"]:
        check_message(one)
    check_results(body["messages"])


def check_format(body: Mapping[str, Any]) -> None:
    form = body.get("response_format", {"type": "text"})
    only(form, ("type", "json_schema"), "response_format")
    need(form["type"] in ("text", "json_object"), "response_format.type")
    need("json_schema" not in form or not body.get("tools"), "no schema together with tools")
    thinking = body.get("thinking", {"type": "disabled"})
    only(thinking, ("type", "token_budget"), "thinking")
    need(thinking["type"] in ("enabled", "disabled"), "thinking.type")


def check_message(one: Mapping[str, Any]) -> None:
    need(one["role"] in OF_ROLE, f"no role {one['role']}")
    only(one, OF_ROLE[one["role"]], f"a message of {one['role']}")
    need(one.get("content") or one.get("tool_calls"), "an empty message")
    parts = one.get("content") or ""
    for part in parts if isinstance(parts, list) else ():
        only(part, ("type", part["type"]), "a part")
        need(part["type"] in ("text", "image_url", "document", "thinking"), "a part's type")
