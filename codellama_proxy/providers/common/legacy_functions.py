"""Converts OpenAI's legacy functions to tools and back, for dialects that support only tools.

    to_request      chat = modern(chat)               before the translation
    parse_*         event = restored(event, chat)     after the translation

Function results have no ids, so calls get numbered ones: a `function` message answers the latest call of its name. A
legacy answer has only one call: parallel calls are disabled in the request, and dropped if they occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import completion_in
from codellama_proxy.openai_format.fields import invalid_value
from codellama_proxy.openai_format.request import InferenceRequest, Message


def is_legacy(chat: InferenceRequest) -> bool:
    """Whether the client sent `functions` and expects `function_call` in the answer."""
    return "functions" in chat.params


def modern(chat: InferenceRequest) -> InferenceRequest:
    """The request with tools in place of functions; the same object if it has no functions."""
    params = (
        _modern_params(chat.params) if {"functions", "function_call"} & chat.params.keys() else chat.params
    )
    old = any(message["role"] == "function" or message.get("function_call") for message in chat.messages)
    messages = _modern_messages(chat.messages) if old else chat.messages
    return chat._replace(params=params, messages=messages)


def restored(event: Event, chat: InferenceRequest) -> Event:
    """The event with `function_call` in place of `tool_calls`, for clients that sent functions."""
    if not event.body or not is_legacy(chat):
        return event
    found = completion_in(event)
    body = {**found, "choices": [_restored_choice(choice) for choice in found["choices"]]}
    return event._replace(
        body=orjson.dumps(body),
        finish_reason=_reason(event.finish_reason),
        completion=None if event.completion is None else body,
    )


def _restored_choice(choice: Json) -> Json:
    name = "message" if "message" in choice else "delta"
    content = dict(choice[name])
    if "tool_calls" in content:
        content.update(_first_function(content.pop("tool_calls") or ()))
    return {**choice, name: content, "finish_reason": _reason(choice.get("finish_reason"))}


def _reason(reason: str | None) -> str | None:
    return "function_call" if reason == "tool_calls" else reason


def _first_function(calls: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The first call, or a fragment of it, as `function_call`; empty if there is none."""
    for call in calls:
        if call.get("index", 0) == 0 and "function" in call:
            return {"function_call": call["function"]}
    return {}


def _modern_params(params: Mapping[str, Any]) -> dict[str, Any]:
    if "functions" in params and "tools" in params:
        raise invalid_value("functions", "Give either 'tools' or 'functions', not both.")
    found = dict(params)
    functions = found.pop("functions", [])
    choice = found.pop("function_call", None)
    if functions:
        found["tools"] = [{"type": "function", "function": function} for function in functions]
        found["parallel_tool_calls"] = False
    if choice is not None and functions:
        found["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", "function": choice}
    return found


def _modern_messages(messages: Sequence[Message]) -> list[Message]:
    found: list[Message] = []
    latest: dict[str, str] = {}
    for message in messages:
        if message["role"] == "function":
            call_id = latest.get(str(message.get("name")), f"call_fn_{max(len(latest) - 1, 0)}")
            found.append({"role": "tool", "tool_call_id": call_id, "content": message.get("content") or ""})
        elif isinstance(function := message.get("function_call"), dict) and not message.get("tool_calls"):
            call_id = f"call_fn_{sum(bool(one.get('tool_calls')) for one in found)}"
            latest[str(function.get("name"))] = call_id
            call = {"id": call_id, "type": "function", "function": function}
            rest = {name: value for name, value in message.items() if name != "function_call"}
            found.append({**rest, "tool_calls": [call]})
        else:
            found.append(message)
    return found
