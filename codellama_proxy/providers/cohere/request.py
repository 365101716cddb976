"""Converts chat requests to Cohere's v2 chat API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.core.types import HttpRequest
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.parameters import IGNORABLE
from codellama_proxy.openai_format.request import THINKING_PARTS, InferenceRequest, Message
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common import translated
from codellama_proxy.providers.common.identity import bearer_headers
from codellama_proxy.providers.common.parameters import (
    Policy,
    UnsupportedError,
    functions,
    narrow_tool_choice,
    one_of,
    translate,
)

BASE_URL = "https://api.cohere.com/v2"
MAX_STOPS = 5
MIN_TOP_P, MAX_TOP_P = 0.01, 0.99
THINKING_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": None, "xhigh": None, "max": None}
"""Thinking tokens by effort; `None`: unlimited."""
MESSAGE_FIELDS = frozenset({"role", "content", "tool_calls", "tool_call_id", "tool_plan"})
PARTS = {"text": ("type", "text"), "image_url": ("type", "image_url"), "document": ("type", "document")}
"""Supported content types and their fields."""


def to_request(chat: InferenceRequest, deployment: Deployment) -> HttpRequest:
    """The HTTP request for `chat`. Raises `ProxyError` unsupported_parameter."""
    chat = translated.plain_chat(legacy.modern(chat), deployment)
    params, dropped = translate(narrow_tool_choice(chat.params), POLICY, deployment, chat.soft)
    body = {
        "model": deployment.model,
        "messages": [_message(message, f"messages[{at}]") for at, message in enumerate(chat.messages)],
        "stream": chat.stream,
        **params,
    }
    headers = {"content-type": "application/json", **bearer_headers(deployment)}
    url = (deployment.base_url or BASE_URL).rstrip("/") + "/chat"
    return HttpRequest(
        url, headers, orjson.dumps(body, default=dict), dropped=translated.dropped(dropped, chat)
    )


# --- parameters ----------------------------------------------------------------------------------------------


def _stop(value: str | Sequence[str]) -> Json:
    stops = [value] if isinstance(value, str) else value
    if len(stops) > MAX_STOPS:
        raise UnsupportedError
    return {"stop_sequences": stops}


def _penalty(name: str) -> Any:
    def rule(value: float) -> Json:
        if not 0 <= value <= 1:
            raise UnsupportedError
        return {name: value}

    return rule


def _tools(tools: Sequence[Json]) -> Json:
    found = functions(tools)
    strict = [function.pop("strict", None) is True for function in found]
    sent: dict[str, Any] = {"tools": [{"type": "function", "function": function} for function in found]}
    if all(strict):
        sent["strict_tools"] = True
    return sent


def _tool_choice(value: Any) -> Json:
    word = one_of("auto", "none", "required")(value)
    return {} if word == "auto" else {"tool_choice": word.upper()}


def _response_format(value: Json) -> Json:
    match value:
        case {"type": "json_object"}:
            return {"response_format": {"type": "json_object"}}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return {"response_format": {"type": "json_object", "json_schema": schema}}
    raise UnsupportedError


def _reasoning_effort(value: str) -> Json:
    if value == "none":
        return {"thinking": {"type": "disabled"}}
    budget = THINKING_BUDGETS[one_of(*THINKING_BUDGETS)(value)]
    bound = {} if budget is None else {"token_budget": budget}
    return {"thinking": {"type": "enabled", **bound}}


POLICY = Policy(
    rules={
        **{name: name for name in ("max_tokens", "temperature", "seed", "logprobs", "k", "p")},
        # Cohere's own parameters.
        **{
            name: name
            for name in ("documents", "citation_options", "safety_mode", "strict_tools", "priority")
        },
        "max_completion_tokens": "max_tokens",
        "top_p": lambda value: {"p": min(max(value, MIN_TOP_P), MAX_TOP_P)},
        "top_k": "k",
        "stop": _stop,
        "presence_penalty": _penalty("presence_penalty"),
        "frequency_penalty": _penalty("frequency_penalty"),
        "tools": _tools,
        "tool_choice": _tool_choice,
        "response_format": _response_format,
        "reasoning_effort": _reasoning_effort,
        "thinking": "thinking",
    },
    drop=IGNORABLE | {"user", "parallel_tool_calls"},
)


# --- messages ------------------------------------------------------------------------------------------------


def _message(message: Message, at: str) -> Json:
    found = {name: message[name] for name in MESSAGE_FIELDS & message.keys() if message[name] is not None}
    if found["role"] == "developer":
        found["role"] = "system"
    if "tool_calls" in found:
        found["tool_calls"] = [_call(call) for call in found["tool_calls"]]
    content = found.get("content")
    if isinstance(content, list):
        found["content"] = [
            _part(part, f"{at}.content[{i}]")
            for i, part in enumerate(content)
            if part["type"] not in THINKING_PARTS
        ]
    elif not content and "tool_calls" in found:
        found.pop("content", None)
    return found


def _call(call: Json) -> Json:
    return {name: call[name] for name in ("id", "type", "function") if name in call}


def _part(part: Json, at: str) -> Json:
    kind = part["type"]
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal") or ""}
    if kind not in PARTS:
        raise invalid_value(f"{at}.type", f"Provider 'cohere' does not support content of type '{kind}'.")
    return {name: part[name] for name in PARTS[kind] if name in part}
