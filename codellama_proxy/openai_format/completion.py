"""Parts of answers in OpenAI's format: usage objects and chunks, the text of a message, a completion as an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.usage import usage_in

MAX_EVENT_LOOP_BYTES = 128 << 10
"""Bytes of an answer that are parsed or assembled on the event loop; larger answers go to a thread."""
CHAT_COMPLETION = "chat.completion"
CHAT_CHUNK = "chat.completion.chunk"
TEXT_COMPLETION = "text_completion"
"""The `object` of answers of `/completions`, chunks included."""


def _estimated_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object, marked as counted by the proxy."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "estimated": True,
    }


def with_estimate(event: Event, usage: Usage) -> Event:
    """A completion that came without usage, with the proxy's count added."""
    completion = completion_in(event)
    shown = _estimated_json(usage)
    if "choices" not in completion:  # embeddings have no completion
        del shown["completion_tokens"]
    return event._replace(body=orjson.dumps({**completion, "usage": shown}), completion=None)


def estimated_chunk(earlier: Event, usage: Usage) -> Event:
    """The usage chunk for a stream whose upstream reported none, with the ids of an `earlier` chunk."""
    chunk = orjson.loads(earlier.body)
    shown = _estimated_json(usage)
    return usage_chunk(chunk["id"], chunk["created"], chunk.get("model"), shown, chunk["object"])


def is_usage(usage: object) -> bool:
    """Whether strict clients accept it as a `usage` object: its figures are integers or missing."""
    if not isinstance(usage, dict):
        return False
    figures = {type(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return figures <= {int, type(None)}


def usage_chunk(
    answer_id: str,
    created: int,
    model: str | None,
    usage: Mapping[str, Any],
    kind: str = CHAT_CHUNK,
) -> Event:
    """The last chunk of a stream, for clients that set `stream_options.include_usage`."""
    chunk = {
        "id": answer_id,
        "object": kind,
        "created": created,
        "model": model or "",
        "choices": [],
        "usage": usage,
    }
    return Event(orjson.dumps(chunk), usage_only=True)


def text_alone(message: object) -> str | None:
    """The text of a message that has nothing else, as most have; `None` for a message with more, or without a text."""
    if type(message) is not dict:
        return None
    for name, value in message.items():
        if value and name not in ("content", "role"):
            return None
    content = message.get("content")
    return content if type(content) is str else None


def message_text(message: Json) -> str:
    """All the text of a message or a delta, for counting tokens: reasoning, content, refusal and calls of functions."""
    content = message.get("content")
    parts = [message.get("reasoning_content") or message.get("reasoning")]
    if isinstance(content, list):
        parts += [part.get("text") for part in content if isinstance(part, dict)]
    else:
        parts.append(content)
    parts.append(message.get("refusal"))
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        for call in calls:
            if isinstance(call, dict):
                parts += _call_texts(call.get("function"))
    if message.get("function_call"):
        parts += _call_texts(message["function_call"])
    return "".join([part for part in parts if isinstance(part, str)])


def _call_texts(function: Any) -> tuple[Any, ...]:
    return (function.get("name"), function.get("arguments")) if isinstance(function, dict) else ()


def completion_event(
    completion: Json, body: bytes, text: str, usage: Usage | None, model: str | None
) -> Event:
    """The event of a plain answer with at least one choice; `text` is all its text, for counting tokens."""
    finish_reason = completion["choices"][0].get("finish_reason")
    kept = completion if len(body) <= MAX_EVENT_LOOP_BYTES else None
    return Event(body, True, text, usage, finish_reason, model, False, False, kept)


def completion_in(event: Event) -> Json:
    """The object in an event's body, parsed unless it has been already. Read-only."""
    found: Json = orjson.loads(event.body) if event.completion is None else event.completion
    return found


def whole_event(body: bytes) -> Event:
    """The event of a plain answer that is kept as bytes only. Raises `ValueError` for bytes that are no completion."""
    return event_of(orjson.loads(body), body)._replace(completion=None)


def event_of(completion: Any, body: bytes, usage: Usage | None = None) -> Event:
    """The event of a plain answer. Raises `ValueError` for what is no completion.

    `usage`: what was reported, if that is known; otherwise it is read from the completion.
    """
    try:
        choices = completion["choices"]
        text = "".join(
            [choice["text"] if "text" in choice else message_text(choice["message"]) for choice in choices]
        )
        if "finish_reason" not in choices[0]:
            raise KeyError("finish_reason")
        reported = usage_in(completion) if usage is None else usage
        return completion_event(completion, body, text, reported, completion.get("model"))
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("not a completion") from error
