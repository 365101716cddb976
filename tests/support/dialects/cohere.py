"""What Cohere says, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.types import Usage
from tests.support.conversations import Answer, Dialogue, first_message

USAGE = {
    "billed_units": {"input_tokens": 9.0, "output_tokens": 7.0},
    "tokens": {"input_tokens": 20.0, "output_tokens": 7.0},
    "cached_tokens": 4.0,
}


def events(*pieces: Mapping[str, Any]) -> bytes:
    """Each event names its type twice, as Cohere's do."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in pieces)


def message(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"delta": {"message": of}}


def start() -> dict[str, Any]:
    shown = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    return {"type": "message-start", "id": "c-1", **message(shown)}


def end(reason: str, **more: Any) -> dict[str, Any]:
    return {"type": "message-end", "delta": {"finish_reason": reason, "usage": USAGE, **more}}


def block(index: int, kind: str, *pieces: str) -> list[dict[str, Any]]:
    """A block of content, from its start to its end."""
    begun = {"type": "content-start", "index": index, **message({"content": {"type": kind, kind: ""}})}
    went_on = [
        {"type": "content-delta", "index": index, **message({"content": {kind: piece}})} for piece in pieces
    ]
    return [begun, *went_on, {"type": "content-end", "index": index}]


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"{name}_k1", "type": "function", "function": {"name": name, "arguments": arguments}}


def called(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    """A tool call, from its start to its end. `tool_calls` is one object here."""
    begun = {"type": "tool-call-start", "index": index, **message({"tool_calls": call(name, "")})}
    went_on = [
        {
            "type": "tool-call-delta",
            "index": index,
            **message({"tool_calls": {"function": {"arguments": piece}}}),
        }
        for piece in pieces
    ]
    return [begun, *went_on, {"type": "tool-call-end", "index": index}]


def whole(reason: str, **pieces: Any) -> bytes:
    shown = {"role": "assistant", **pieces}
    return orjson.dumps({"id": "c-1", "finish_reason": reason, "message": shown, "usage": USAGE})


CITATION = {"start": 0, "end": 3, "text": "def", "sources": [{"type": "document", "id": "d1"}]}

DIALOGUE = Dialogue(
    answers={
        "text": Answer(
            whole(
                "COMPLETE",
                content=[
                    {"type": "text", "text": "def hej():\n"},
                    {"type": "text", "text": '    print("世界 🌍")'},
                ],
                citations=[CITATION],
            ),
            events(
                start(),
                *block(0, "text", "def hej():\n", "    print("),
                {"type": "citation-start", "index": 0, **message({"citations": CITATION})},
                {"type": "citation-end", "index": 0},
                {"type": "debug", "prompt": "..."},
                *block(1, "text", '"世界 🌍")'),
                end("COMPLETE"),
            ),
            'def hej():\n    print("世界 🌍")',
        ),
        "tools": Answer(
            whole(
                "TOOL_CALL",
                tool_plan="I will check.",
                tool_calls=[call("weather", '{"city":"Oslo"}'), call("time", "{}")],
            ),
            events(
                start(),
                *(
                    {"type": "tool-plan-delta", **message({"tool_plan": pieces})}
                    for pieces in ("I will ", "check.")
                ),
                *called(3, "weather", '{"city":', '"Oslo"}'),
                *called(4, "time"),
                end("TOOL_CALL"),
            ),
            'I will check.weather{"city":"Oslo"}time{}',
        ),
        "reasoning": Answer(
            whole(
                "MAX_TOKENS",
                content=[{"type": "thinking", "thinking": "2 and 2"}, {"type": "text", "text": "4"}],
            ),
            events(start(), *block(0, "thinking", "2 and", " 2"), *block(1, "text", "4"), end("MAX_TOKENS")),
            "2 and 24",
        ),
    },
    errors=(
        events(end("ERROR")),
        events(end("TIMEOUT")),
        events(end("COMPLETE", error="The model is overloaded.")),
        b'data: {"message": "internal server error", "id": "c-1"}\n\n',
    ),
    first_system=first_message,
    usage=Usage(20, 7, cached_tokens=4),
)
