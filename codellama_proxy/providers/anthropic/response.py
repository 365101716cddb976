"""Converts plain answers of Anthropic's Messages API to OpenAI's format; parts are shared with streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import message_text
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import merged, read_usage, total_usage
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common.finish_reasons import finish_reason
from codellama_proxy.providers.common.json_reading import (
    load_answer,
    model_of,
    text_at,
    words_at,
    wrong,
)

THINKING = ("thinking", "redacted_thinking")


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
    found = load_answer(body)
    content = found.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        wrong("no_content")
    message = _message(content, found, chat)
    first = shape.head("chat.completion", answer_id(found, chat), chat.created, model_of(found))
    reason = ended(found.get("stop_reason"), called="tool_calls" in message)
    event = shape.completion(first, message, reason, usage(found.get("usage")), message_text(message))
    return legacy.restored(event, chat)


def answer_id(found: Mapping[str, Any], chat: InferenceRequest) -> str:
    own = found.get("id")
    return f"chatcmpl-{own if isinstance(own, str) and own else chat.id}"


def ended(stop_reason: object, *, called: bool) -> str:
    """OpenAI's finish reason; `tool_calls` for an answer with tool calls."""
    reason = finish_reason(stop_reason) if isinstance(stop_reason, str) else "stop"
    if called and reason == "stop":
        return "tool_calls"
    return "stop" if reason == "tool_calls" and not called else reason


def refusal(found: Mapping[str, Any]) -> dict[str, str]:
    """The text of a refusal."""
    if found.get("stop_reason") != "refusal":
        return {}
    details = found.get("stop_details")
    explanation = details.get("explanation") if isinstance(details, dict) else None
    return {"refusal": explanation if isinstance(explanation, str) and explanation else "refused"}


def usage(found: object) -> dict[str, Any] | None:
    """OpenAI's `usage`: its prompt tokens include cached tokens, Anthropic's input tokens do not.

    What `iterations` adds up to is billed where that is more: the sums beside it leave out compactions of the context
    (docs.anthropic.com/en/docs/build-with-claude/compaction).
    """
    read = read_usage(found)
    iterations = found.get("iterations") if isinstance(found, Mapping) else None
    if read is None or not isinstance(iterations, list):
        return None if read is None else shape.usage_json(read)
    return shape.usage_json(merged(total_usage(map(read_usage, iterations)), read))


def arguments(block: Mapping[str, Any]) -> str:
    """A call's input as a string of JSON."""
    found = block.get("input")
    return orjson.dumps(found).decode() if isinstance(found, dict) else "{}"


def call(block: Mapping[str, Any], arguments: str, own_id: str) -> dict[str, Any]:
    """A tool call in OpenAI's format; `own_id` replaces a missing id. Raises `AttemptError` without a name."""
    name = text_at(block, "name")
    if not name:
        wrong("call_without_name")
    function = {"name": name, "arguments": arguments}
    return {"id": text_at(block, "id") or own_id, "type": "function", "function": function}


def _message(
    content: list[dict[str, Any]], found: Mapping[str, Any], chat: InferenceRequest
) -> dict[str, Any]:
    thinking = [block for block in content if block.get("type") in THINKING]
    tools = [block for block in content if block.get("type") == "tool_use"]
    calls = [call(one, arguments(one), f"call_{chat.id}_{at}") for at, one in enumerate(tools)]
    reasoning = _joined(thinking, "thinking")
    text = _joined([block for block in content if block.get("type") == "text"], "text")
    message: dict[str, Any] = {"content": text or (None if calls or refusal(found) else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if thinking:
        message["thinking_blocks"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {**message, **refusal(found)}


def _joined(blocks: list[dict[str, Any]], name: str) -> str:
    return "".join(words_at(block, name) for block in blocks)
