"""What AI21's Jamba says, byte for byte: OpenAI's dialect without `object`, `created` and `model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.types import Usage
from tests.support.conversations import Answer, Dialogue, first_message, sse

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


def chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    """The last one carries the usage beside its choice."""
    last = {} if reason is None else {"usage": USAGE}
    return {"id": "a1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **last}


def whole(message: Mapping[str, Any], reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return orjson.dumps({"id": "a1", "choices": [choice], "usage": USAGE})


def stream(*pieces: Mapping[str, Any]) -> bytes:
    # The terminal event is not always spelled alike.
    return sse(chunk({"role": "assistant"}), *pieces) + b"data:  [DONE]\n\n"


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


DIALOGUE = Dialogue(
    answers={
        "text": Answer(
            whole({"content": "Hello 🌍."}),
            stream(chunk({"content": "Hello"}), chunk({"content": " 🌍."}), chunk({"content": ""}, "stop")),
            "Hello 🌍.",
        ),
        "tools": Answer(
            whole({"content": None, "tool_calls": [call("weather", '{"city":"Oslo"}')]}, "tool_calls"),
            stream(
                chunk({"tool_calls": [{"index": 0, **call("weather", '{"city":"Oslo"}')}]}),
                chunk({}, "tool_calls"),
            ),
            'weather{"city":"Oslo"}',
        ),
    },
    errors=(sse({"error": {"message": "overloaded"}}), sse({"detail": "Internal error"})),
    first_system=first_message,
    usage=Usage(20, 7),
)
