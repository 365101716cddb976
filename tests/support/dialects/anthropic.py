"""What Anthropic's Messages API says, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from codellama_proxy.core.types import Usage
from tests.support.conversations import Answer, Dialogue

USAGE = {
    "input_tokens": 13,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 3,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2},
}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-2026"}


def events(*pieces: Mapping[str, Any]) -> bytes:
    """Each event names its type twice, as Anthropic's do."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in pieces)


def start(**more: Any) -> dict[str, Any]:
    usage = {**USAGE, "output_tokens": 1, "output_tokens_details": None}
    empty = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    return {"type": "message_start", "message": {**MESSAGE, **empty, **more}}


def block(index: int, opened: Mapping[str, Any], *deltas: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A block of content, from its start to its end."""
    return [
        {"type": "content_block_start", "index": index, "content_block": opened},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": p} for p in pieces))


def thinking(index: int, signature: str, *pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    opened = {"type": "thinking", "thinking": "", "signature": ""}
    return block(index, opened, *deltas, {"type": "signature_delta", "signature": signature})


def tool(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": arguments}


def called(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, tool(name, {}), *deltas)


def end(reason: str, **more: Any) -> list[dict[str, Any]]:
    """The total comes last; what it leaves out stays as it was at the start."""
    usage = {"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}}
    delta = {"stop_reason": reason, "stop_sequence": None, **more}
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def whole(reason: str, *content: Mapping[str, Any], **more: Any) -> bytes:
    ended = {"stop_reason": reason, "stop_sequence": None, "usage": USAGE, **more}
    return orjson.dumps({**MESSAGE, "content": content, **ended})


THOUGHT = {"type": "thinking", "thinking": "2 and 2", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "b3BhcXVl"}

DIALOGUE = Dialogue(
    answers={
        "text": Answer(
            whole(
                "end_turn",
                {"type": "text", "text": "def hej():\n", "citations": None},
                {"type": "text", "text": '    print("世界 🌍")'},
            ),
            events(
                start(),
                {"type": "ping"},
                *text(0, "def hej():\n"),
                *text(1, "    print(", '"世界 🌍")'),
                {"type": "something_new", "index": 3},
                *end("end_turn"),
            ),
            'def hej():\n    print("世界 🌍")',
        ),
        "tools": Answer(
            whole(
                "tool_use",
                {"type": "text", "text": "Let me look."},
                tool("weather", {"city": "Oslo"}),
                tool("time", {}),
            ),
            events(
                start(),
                *text(0, "Let me look."),
                *called(1, "weather", "", '{"city":', '"Oslo"}'),
                *called(2, "time"),
                *end("tool_use"),
            ),
            'Let me look.weather{"city":"Oslo"}time{}',
        ),
        "reasoning": Answer(
            whole("max_tokens", THOUGHT, HIDDEN, {"type": "text", "text": "4"}),
            events(
                start(),
                *thinking(0, "c2ln", "2 and", " 2"),
                *block(1, HIDDEN),
                *text(2, "4"),
                *end("max_tokens"),
            ),
            "2 and 24",
        ),
        "refusal": Answer(
            whole("refusal", stop_details={"type": "refusal", "explanation": "Not that."}),
            events(start(), *end("refusal", stop_details={"type": "refusal", "explanation": "Not that."})),
            "Not that.",
        ),
    },
    errors=(
        events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        b'data: {"type": "error", "error": {"type": "api_error", "message": "Internal server error"}}\n\n',
        b'data: {"error": "a gateway in between broke"}\n\n',
    ),
    first_system=lambda body: str(body.get("system", "")),
    usage=Usage(20, 7, cached_tokens=4, cache_write_tokens=3, reasoning_tokens=2),
)
