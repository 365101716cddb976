"""Builds answers in OpenAI's format for adapters with a format of their own: completions, chunks and usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.completion import completion_event, usage_chunk
from codellama_proxy.openai_format.usage import read_usage


def head(kind: str, answer_id: str, created: int, model: str | None) -> dict[str, Any]:
    """The fields that a completion and each of its chunks begin with; `created` is unix seconds."""
    return {"id": answer_id, "object": kind, "created": created, "model": model or ""}


def completion(
    first: Mapping[str, Any],
    message: Mapping[str, Any],
    finish_reason: str,
    usage: Mapping[str, Any] | None,
    text: str,
    *,
    logprobs: Sequence[Json] = (),
) -> Event:
    """The event of a plain answer with one choice. `text` is all its text, for counting tokens."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {**first, "choices": [{**choice, **_logprobs(logprobs)}], **({"usage": usage} if usage else {})}
    return completion_event(body, orjson.dumps(body), text, read_usage(usage), first["model"] or None)


def chunk(
    first: Mapping[str, Any],
    delta: Mapping[str, Any],
    *,
    text: str = "",
    finish_reason: str | None = None,
    content: bool = True,
    logprobs: Sequence[Json] = (),
) -> Event:
    """The event of one chunk. `content` is false for chunks before the first content."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **_logprobs(logprobs)}
    return Event(
        orjson.dumps({**first, "choices": [choice]}),
        content=content,
        text=text,
        finish_reason=finish_reason,
        model=first["model"] or None,
    )


def _logprobs(content: Sequence[Json]) -> Json:
    return {"logprobs": {"content": content}} if content else {}


def opening(first: Mapping[str, Any]) -> Event:
    """The first chunk of a stream, which only has the role."""
    return chunk(first, {"role": "assistant", "content": ""}, content=False)


def closing(first: Mapping[str, Any], usage: Mapping[str, Any] | None) -> list[Event]:
    """The usage events at the end of a stream, for the ledger and for the client; none if none was reported."""
    if usage is None:
        return []
    return [
        Event(b"", usage=read_usage(usage)),
        usage_chunk(first["id"], first["created"], first["model"], usage),
    ]


def usage_of(prompt: int, completion_tokens: int) -> dict[str, Any]:
    """OpenAI's `usage` object from two counts of tokens."""
    return usage_json(Usage(prompt, completion_tokens))


def usage_json(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object, with all the details that have a price."""
    details = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    if usage.cache_write_1h_tokens:
        details["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    if usage.tool_calls:
        shown["server_tool_use"] = {f"{name}_requests": calls for name, calls in usage.tool_calls}
    if usage.service_tier:
        shown["service_tier"] = usage.service_tier
    return shown
