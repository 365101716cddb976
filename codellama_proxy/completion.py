"""Answers in OpenAI's shape, as we make them ourselves rather than relay them: pure functions on JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.types import Event, Usage


def usage_json(usage: Usage, *, estimated: bool) -> dict[str, Any]:
    """OpenAI's `usage` object; `estimated` marks one that we counted."""
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if estimated:
        shown["estimated"] = True
    return shown


def with_estimate(event: Event, usage: Usage) -> Event:
    """A whole completion that came without usage, completed by our count."""
    completion = orjson.loads(event.body)
    completion["usage"] = usage_json(usage, estimated=True)
    return event._replace(body=orjson.dumps(completion))


def estimated_chunk(earlier: Event, usage: Usage) -> Event:
    """The last chunk of a stream whose upstream reported no usage, made after an `earlier` one."""
    chunk = orjson.loads(earlier.body)
    shown = usage_json(usage, estimated=True)
    return usage_chunk(chunk["id"], chunk["created"], chunk.get("model"), shown)


def usage_chunk(answer_id: str, created: int, model: str | None, usage: Mapping[str, Any]) -> Event:
    """The last chunk of a stream, for clients that set `stream_options.include_usage`."""
    chunk = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model or "",
        "choices": [],
        "usage": usage,
    }
    return Event(orjson.dumps(chunk), usage_only=True)
