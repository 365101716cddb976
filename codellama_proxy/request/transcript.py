"""What was said in an answer, put together again from its events: whole completions and streams alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.types import Event

MOST_BYTES = 1 << 20
"""Of a prompt or an answer: what is larger is not kept, or not to its end."""
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


class Transcript:
    """Takes events as they pass; puts them together only when asked, at the end."""

    __slots__ = ("_bodies", "_size", "cut")

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        self._size = 0
        self.cut = False
        """There was more than is kept."""

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            self._size += len(event.body)
            if self._size > MOST_BYTES:
                self.cut = True
                return
            if event.body:
                self._bodies.append(event.body)

    def choices(self) -> list[dict[str, Any]]:
        """In OpenAI's shape: `{index, message, finish_reason}`, by index."""
        found: dict[int, dict[str, Any]] = {}
        for body in self._bodies:
            for choice in orjson.loads(body).get("choices") or ():
                index = choice.get("index")
                _take(found.setdefault(index if isinstance(index, int) else 0, _empty()), choice)
        return [{"index": index, **found[index]} for index in sorted(found)]


def _empty() -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": None}, "finish_reason": None}


def _take(whole: dict[str, Any], choice: Mapping[str, Any]) -> None:
    whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
    if choice.get("message"):
        whole["message"] |= choice["message"]
    elif choice.get("delta"):
        _extend(whole["message"], choice["delta"])
    elif isinstance(choice.get("text"), str):
        whole["message"]["content"] = (whole["message"]["content"] or "") + choice["text"]


def _extend(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls") or ():
        _extend_call(message.setdefault("tool_calls", []), call)
    if delta.get("function_call"):
        _extend_function(
            message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"]
        )


def _extend_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """A part belongs to the call of its index; without one, to the last unless it brings an id."""
    index = part.get("index")
    if index is None:
        index = len(calls) if part.get("id") or not calls else len(calls) - 1
    if index >= len(calls):
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[min(index, len(calls) - 1)]
    call["id"] = part.get("id") or call["id"]
    _extend_function(call["function"], part.get("function") or {})


def _extend_function(function: dict[str, Any], part: Mapping[str, Any]) -> None:
    function["name"] = part.get("name") or function["name"]
    function["arguments"] += part.get("arguments") or ""
