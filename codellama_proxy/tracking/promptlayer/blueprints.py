"""OpenAI's messages as PromptLayer's "blueprints": content is always a list of blocks. Patient with odd input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from codellama_proxy.openai_format.request import InferenceRequest


def prompt(chat: InferenceRequest) -> dict[str, Any]:
    """What was asked, with its tools; of what is no chat, its text."""
    if chat.endpoint != "chat/completions":
        return completion_of(_given(chat.given))
    shown = chat_of([blueprint(message) for message in chat.messages])
    functions = [_object(tool.get("function")) for tool in chat.params.get("tools", ())]
    named = [function for function in functions if isinstance(function.get("name"), str)]
    if named:
        shown["tools"] = [{"type": "function", "function": function} for function in named]
        if "tool_choice" in chat.params:
            shown["tool_choice"] = chat.params["tool_choice"]
    if chat.params.get("functions"):
        shown["functions"] = chat.params["functions"]
    return shown


def answer(chat: InferenceRequest, choices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What was said to it, of each choice."""
    if chat.endpoint != "chat/completions":
        return completion_of([choice["message"].get("content") or "" for choice in choices])
    return chat_of([blueprint(choice["message"]) for choice in choices])


def _given(given: Any) -> list[str]:
    """A text or several; token ids are only counted."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [f"[{len(given)} token ids]"]
    return [text for one in given or () for text in _given(one)]


def completion_of(texts: Iterable[str]) -> dict[str, Any]:
    """A blueprint of what is no chat."""
    return {"type": "completion", "content": [_text(text) for text in texts], "input_variables": []}


def _object(value: Any) -> Mapping[str, Any]:
    """What strangers may have sent instead of an object is none."""
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
    """One of OpenAI's messages as PromptLayer has it."""
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
    """Text and pictures; of anything else, what it is."""
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
