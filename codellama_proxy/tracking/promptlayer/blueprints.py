"""OpenAI messages as PromptLayer "blueprints", whose content is always a list of blocks. Accepts malformed input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from codellama_proxy.openai_format.request import InferenceRequest


def prompt(request: InferenceRequest) -> dict[str, Any]:
    """The input of a chat with its tools, or the text of a completion or an embedding."""
    if request.endpoint != "chat/completions":
        return completion_of(_given(request.given))
    shown = chat_of([blueprint(message) for message in request.messages])
    functions = [_object(tool.get("function")) for tool in request.params.get("tools", ())]
    named = [function for function in functions if isinstance(function.get("name"), str)]
    if named:
        shown["tools"] = [{"type": "function", "function": function} for function in named]
        if "tool_choice" in request.params:
            shown["tool_choice"] = request.params["tool_choice"]
    if request.params.get("functions"):
        shown["functions"] = request.params["functions"]
    return shown


def answer(request: InferenceRequest, choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The output: one message or text for each choice."""
    if request.endpoint != "chat/completions":
        return completion_of([choice["message"].get("content") or "" for choice in choices])
    return chat_of([blueprint(choice["message"]) for choice in choices])


def _given(given: Any) -> list[str]:
    """The input's texts; token ids are only counted."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [f"[{len(given)} token ids]"]
    return [text for one in given or () for text in _given(one)]


def completion_of(texts: Iterable[str]) -> dict[str, Any]:
    """A blueprint of texts that are no chat."""
    return {"type": "completion", "content": [_text(text) for text in texts], "input_variables": []}


def _object(value: Any) -> Mapping[str, Any]:
    """An empty object for a value that is not one."""
    return value if isinstance(value, Mapping) else {}


def chat_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A blueprint of messages that are blueprints."""
    return {"type": "chat", "messages": messages, "input_variables": []}


def message_of(role: str, text: str) -> dict[str, Any]:
    """A message of one text."""
    return {"role": role, "content": [_text(text)]}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def blueprint(message: Mapping[str, Any]) -> dict[str, Any]:
    """One OpenAI message as a blueprint message."""
    shown: dict[str, Any] = {
        "role": str(message.get("role", "assistant")),
        "content": [*_thinking(message), *_blocks(message.get("content")), *_refusal(message)],
    }
    calls = [_call(_object(call)) for call in message.get("tool_calls") or ()]
    if message.get("function_call"):
        calls.append(_call({"function": message["function_call"]}))
    if calls:
        shown["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        if isinstance(message.get(name), str):
            shown[name] = message[name]
    return shown


def _blocks(content: Any) -> Iterable[dict[str, Any]]:
    if isinstance(content, str):
        return [_text(content)] if content else []
    return [_block(part) for part in content or () if isinstance(part, dict)]


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    """Text and images; for any other part, its type in brackets."""
    image = part.get("image_url")
    if part.get("type") == "text":
        return _text(str(part.get("text", "")))
    if part.get("type") == "image_url" and isinstance(image, dict) and isinstance(image.get("url"), str):
        return {"type": "image_url", "image_url": {"url": image["url"]}}
    return _text(f"[{part.get('type', 'unknown')}]")


def _thinking(message: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    thought = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thought, str) and thought:
        yield {"type": "thinking", "thinking": thought, "signature": None}


def _refusal(message: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        yield _text(message["refusal"])


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _object(call.get("function") or call.get("custom"))
    arguments = function.get("arguments", function.get("input", ""))
    return {
        "id": str(call.get("id") or ""),
        "type": "function",
        "function": {
            "name": str(function.get("name", "")),
            "arguments": arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode(),
        },
    }
