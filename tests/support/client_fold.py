"""What a client makes of a stream: its chunks folded into the completion they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Decoder
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common.json_documents import UnreadableError
from codellama_proxy.providers.registry import Adapter
from codellama_proxy.upstream.chunk_template import StreamParser
from tests.support.frames import frames


def read(
    adapter: Adapter, pieces: Iterable[bytes], chat: InferenceRequest, deployment: Deployment
) -> tuple[list[Event], bool]:
    """The events of a stream that arrives in these pieces, and whether it was complete when it ended."""
    decoder = Decoder()
    whole = [frame for piece in pieces for frame in frames(decoder.feed(piece))]
    interpreter = StreamParser(lambda state, frame: adapter.parse_stream(state, frame, chat, deployment))
    events: list[Event] = []
    for frame in whole:
        events += interpreter.events_of(frame)
        if interpreter.state.done:
            return events, True
    with suppress(UnreadableError):  # cut in the middle
        for frame in frames(decoder.flush()):
            events += interpreter.events_of(frame)
    return events, interpreter.complete


def cut(raw: bytes, at: Sequence[int]) -> list[bytes]:
    """`raw` in pieces, cut at these places."""
    edges = sorted({0, len(raw), *(place % (len(raw) + 1) for place in at)})
    return [raw[a:b] for a, b in pairwise(edges)]


def chunks(events: Iterable[Event]) -> list[dict[str, Any]]:
    return [orjson.loads(event.body) for event in events if event.body]


def fold(events: Iterable[Event]) -> dict[str, Any]:
    """The completion that the chunks add up to."""
    shown = chunks(events)
    whole: dict[str, Any] = {
        **{name: shown[0][name] for name in ("id", "created", "model")},
        "object": "chat.completion",
        "choices": [],
    }
    choices: dict[int, dict[str, Any]] = {}
    for chunk in shown:
        assert (chunk["id"], chunk["created"]) == (whole["id"], whole["created"])
        assert chunk["object"] == "chat.completion.chunk"
        if "usage" in chunk:
            assert "usage" not in whole, "usage is shown once"
            whole["usage"] = chunk["usage"]
        for choice in chunk["choices"]:
            begun = choices.setdefault(choice["index"], {"index": choice["index"], "message": {}})
            _add_choice(begun, choice)
    whole["choices"] = [choices[index] for index in sorted(choices)]
    for choice in whole["choices"]:
        _tidy(choice["message"])
    return whole


def _add_choice(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    assert choice.get("finish_reason") is None, "nothing follows the finish reason"
    choice["finish_reason"] = chunk.get("finish_reason")
    if chunk.get("logprobs"):
        choice.setdefault("logprobs", {"content": []})["content"] += chunk["logprobs"]["content"]
    _add(choice["message"], chunk["delta"])


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", {})
            for call in value:
                _add(calls.setdefault(call["index"], {}), {**call, "index": None})
        elif name in ("function", "function_call"):
            _add(message.setdefault(name, {}), value)
        elif isinstance(value, str):
            assert name not in ("id", "type", "role") or name not in message, f"{name} is said once"
            message[name] = message.get(name, "") + value
        elif isinstance(value, list):
            message.setdefault(name, []).extend(value)
        else:
            assert value is None
            message.setdefault(name, "" if name in ("content", "refusal") else None)


def _tidy(message: dict[str, Any]) -> None:
    """As a whole message has it: nothing said is null, and calls are a list."""
    if "tool_calls" in message:
        calls = message["tool_calls"]
        message["tool_calls"] = [
            {name: part for name, part in calls[index].items() if name != "index"} for index in sorted(calls)
        ]
    message["content"] = message.get("content") or None
