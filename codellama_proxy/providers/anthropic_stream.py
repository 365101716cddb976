"""A streamed answer of Anthropic's Messages API as OpenAI's chunks.

Blocks are counted over all kinds, tool calls only among themselves. Usage in `message_delta` is a running total
whose missing fields keep what `message_start` said. Only `message_stop` ends the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama_proxy.chat import ChatRequest
from codellama_proxy.completion import usage_chunk
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.providers import legacy, shape
from codellama_proxy.providers.anthropic_answer import (
    THINKING,
    answer_id,
    arguments,
    call,
    ended,
    in_band,
    refusal,
    usage,
)
from codellama_proxy.providers.openai_answer import name_of
from codellama_proxy.providers.openai_stream import KIND
from codellama_proxy.providers.reading import object_in, text_at
from codellama_proxy.sse import Frame
from codellama_proxy.types import Deployment, Event
from codellama_proxy.usage import read_usage

ENDS = ("message_delta", "message_stop")


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the next event's meaning depends on."""

    head: Mapping[str, Any] | None = None
    """What every chunk begins with; `None` until the first."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[int, int] = field(default_factory=dict)
    """Tool calls by their block's index: the how-manieth each is."""
    block: Mapping[str, Any] = field(default_factory=dict)
    """The block being told, as far as it must be told whole: thinking, or a call's input."""
    told: bool = False
    """The call's input came in pieces."""
    end: Mapping[str, Any] = field(default_factory=dict)
    """Why it stopped."""
    done: bool = False

    @property
    def complete(self) -> bool:
        return self.done


def parse_stream(
    state: StreamState | None, frame: Frame, chat: ChatRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptFailed` for an error event."""
    state = state or StreamState()
    found = object_in(frame.data)
    if found is None:
        return state, ()
    if found.get("type") == "error" or found.get("error"):
        raise AttemptFailed(in_band(frame.data, found))
    kind = text_at(found, "type")
    events: list[Event] = []
    if state.head is None and (kind in BLOCKS or kind in ("message_start", *ENDS)):
        state, events = _begin(found, chat)
    if kind in BLOCKS:
        state, more = BLOCKS[kind](state, found)
        events += more
    elif kind == "message_delta":
        state, more = _ending(state, found)
        events += more
    elif kind == "message_stop":
        state, more = replace(state, done=True), _closing(state)
        events += more
    return state, [legacy.restored(event, chat) for event in events]


def _begin(found: Mapping[str, Any], chat: ChatRequest) -> tuple[StreamState, list[Event]]:
    message = _object(found.get("message"))
    model = name_of(message)
    first = shape.head(KIND, answer_id(message, chat), chat.created, model)
    reported = _object(message.get("usage"))
    role = shape.opening(first)._replace(usage=read_usage(usage(reported)))
    return StreamState(head=first, usage=reported), [role]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _index(found: Mapping[str, Any]) -> int:
    index = found.get("index")
    return index if isinstance(index, int) else 0


# --- blocks --------------------------------------------------------------------------------------------------


def _said(state: StreamState, text: str, **delta: Any) -> list[Event]:
    return [shape.chunk(state.head or {}, delta, text=text)]


def _start(state: StreamState, found: Mapping[str, Any]) -> tuple[StreamState, list[Event]]:
    block = _object(found.get("content_block"))
    kind = block.get("type")
    state = replace(state, block=block, told=False)
    if kind == "tool_use":
        number = len(state.calls)
        state = replace(state, calls={**state.calls, _index(found): number})
        opened = call(block, "")
        return state, _said(state, opened["function"]["name"], tool_calls=[{"index": number, **opened}])
    if kind == "text" and (text := text_at(block, "text")):
        return state, _said(state, text, content=text)
    if kind == "thinking" and (text := text_at(block, "thinking")):
        return state, _said(state, text, reasoning_content=text)
    return state, [Event(b"", alive=True)]


def _delta(state: StreamState, found: Mapping[str, Any]) -> tuple[StreamState, list[Event]]:
    delta = _object(found.get("delta"))
    match delta.get("type"):
        case "text_delta" if text := text_at(delta, "text"):
            return state, _said(state, text, content=text)
        case "thinking_delta" if text := text_at(delta, "thinking"):
            block = {**state.block, "thinking": text_at(state.block, "thinking") + text}
            return replace(state, block=block), _said(state, text, reasoning_content=text)
        case "signature_delta":
            signature = text_at(state.block, "signature") + text_at(delta, "signature")
            return replace(state, block={**state.block, "signature": signature}), []
        case "input_json_delta" if (text := text_at(delta, "partial_json")) and _index(found) in state.calls:
            return replace(state, told=True), _arguments(state, found, text)
    return state, []


def _stop(state: StreamState, found: Mapping[str, Any]) -> tuple[StreamState, list[Event]]:
    block = state.block
    closed = replace(state, block={}, told=False)
    if block.get("type") in THINKING:
        # Whole, as it must come back with the results of the tools that were called.
        return closed, [shape.chunk(state.head or {}, {"thinking_blocks": [block]}, content=False)]
    if block.get("type") == "tool_use" and not state.told and _index(found) in state.calls:
        return closed, _arguments(state, found, arguments(block))
    return closed, []


def _arguments(state: StreamState, found: Mapping[str, Any], text: str) -> list[Event]:
    piece = {"index": state.calls[_index(found)], "function": {"arguments": text}}
    return _said(state, text, tool_calls=[piece])


BLOCKS = {"content_block_start": _start, "content_block_delta": _delta, "content_block_stop": _stop}


# --- the end -------------------------------------------------------------------------------------------------


def _ending(state: StreamState, found: Mapping[str, Any]) -> tuple[StreamState, list[Event]]:
    reported = {name: value for name, value in _object(found.get("usage")).items() if value is not None}
    state = replace(state, end=_object(found.get("delta")), usage={**state.usage, **reported})
    return state, [Event(b"", usage=read_usage(usage(state.usage)))]


def _closing(state: StreamState) -> list[Event]:
    first = state.head or {}
    reason = ended(state.end.get("stop_reason"), called=bool(state.calls))
    said = refusal(state.end)
    events = [shape.chunk(first, said, text=said.get("refusal", ""), finish_reason=reason)]
    total = usage(state.usage)
    if total is not None:
        events.append(Event(b"", usage=read_usage(total)))
        events.append(usage_chunk(first["id"], first["created"], first["model"], total))
    return events
