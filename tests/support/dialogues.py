"""The same conversations in every dialect: what a provider answers, whole and streamed, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.providers.openai.profiles import OPENAI_PROFILES
from tests.support.conversations import Answer, Dialogue, first_message, sse
from tests.support.dialects import ai21, anthropic, cohere, replicate

__all__ = ["DIALOGUES", "Answer", "Dialogue", "sse"]


USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_340_000, "model": "m-2026"}


def chunk(delta: Mapping[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**HEAD, "choices": [choice], "usage": None, **more}


def whole(message: Mapping[str, Any], finish_reason: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return orjson.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, **more})


def stream(*pieces: Mapping[str, Any]) -> bytes:
    first = chunk({"role": "assistant", "content": None})
    return sse(first, *pieces, {**HEAD, "choices": [], "usage": USAGE}, b"[DONE]")


def call(name: str, arguments: str, call_id: str | None = None) -> dict[str, Any]:
    """A whole call, or the first fragment of one."""
    return {
        "id": call_id or f"call_{name}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def fragment(index: int, arguments: str) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})


OPENAI = Dialogue(
    answers={
        "text": Answer(
            whole({"content": 'def hej():\n    print("世界 🌍")'}),
            stream(
                chunk({"content": "def hej():\n"}),
                chunk({"content": "    print("}),
                chunk({"content": '"世界 🌍")'}),
                chunk({}, "stop"),
            ),
            'def hej():\n    print("世界 🌍")',
        ),
        "tools": Answer(
            whole(
                {
                    "content": None,
                    "tool_calls": [call("weather", '{"city":"Oslo"}'), call("time", "{}")],
                },
                "tool_calls",
            ),
            stream(
                chunk({"tool_calls": [{"index": 0, **call("weather", "")}]}),
                fragment(0, '{"city":'),
                fragment(0, '"Oslo"}'),
                chunk({"tool_calls": [{"index": 1, **call("time", "{}")}]}),
                chunk({}, "tool_calls"),
            ),
            'weather{"city":"Oslo"}time{}',
        ),
        "reasoning": Answer(
            whole({"content": "4", "reasoning_content": "2 and 2"}, "length"),
            stream(
                chunk({"reasoning_content": "2 and"}),
                chunk({"reasoning_content": " 2"}),
                chunk({"content": "4"}),
                chunk({}, "length"),
            ),
            "2 and 24",
        ),
        "function": Answer(
            whole({"content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}}, "function_call"),
            stream(
                chunk({"function_call": {"name": "f", "arguments": ""}}),
                chunk({"function_call": {"arguments": '{"a":1}'}}),
                chunk({}, "function_call"),
            ),
            'f{"a":1}',
        ),
    },
    errors=(
        sse({"error": {"message": "overloaded", "type": "server_error", "param": None, "code": 502}}),
        sse({"error": "overloaded"}),
        sse(
            {**HEAD, "error": {"code": 429}, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}
        ),
    ),
    first_system=first_message,
)

# A new dialect says the same things in its own words, and is listed here by provider.
DIALOGUES: Mapping[str, Dialogue] = {
    **dict.fromkeys(OPENAI_PROFILES, OPENAI),
    "ai21": ai21.DIALOGUE,
    "anthropic": anthropic.DIALOGUE,
    "cohere": cohere.DIALOGUE,
    "replicate": replicate.DIALOGUE,
}
