"""Converts streams of Anthropic's Messages API to OpenAI's chunks.

Anthropic numbers all blocks, OpenAI only tool calls. Usage in `message_delta` is a running total
whose missing fields keep the values of `message_start`. Only `message_stop` ends the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import CHAT_CHUNK, usage_chunk
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import read_usage
from codellama_proxy.providers.anthropic.response import (
    THINKING,
    answer_id,
    arguments,
    call,
    ended,
    refusal,
    usage,
)
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common.json_reading import (
    model_of,
    piece_of,
    text_at,
    words_at,
    wrong,
)
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS, number

ENDS = ("message_delta", "message_stop")

Parts = tuple[Any, tuple[str, str]] | None
"""Pieces of a block's fields: all but the last, and the last."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What parsing the next frame depends on."""

    head: Mapping[str, Any] | None = None
    """The fields that every chunk begins with; `None` before the first one."""
    usage: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[int, int] = field(default_factory=dict)
    """The number of each tool call, by the index of its block."""
    called: int = 0
    """How many tool calls have started."""
    block: Mapping[str, Any] = field(default_factory=dict)
    """The block in progress, as it started."""
    place: int = 0
    """The index of that block."""
    parts: Parts = None
    """Pieces of a block that is sent whole at its end: all but the last, and the last."""
    streamed_input: bool = False
    """Whether the input of the call was received in pieces."""
    end: Mapping[str, Any] = field(default_factory=dict)
    """The `delta` with the stop reason."""
    done: bool = False

    @property
    def complete(self) -> bool:
        return self.done


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    state = state or StreamState()
    found = piece_of(frame)
    if found is None:
        return state, ()
    kind = text_at(found, "type")
    events: list[Event] = []
    if state.head is None and kind == "message_stop":
        wrong("empty_stream")
    if state.head is None and (kind in BLOCKS or kind in ("message_start", *ENDS)):
        state, events = _begin(found, chat)
    if kind in BLOCKS:
        state, more = BLOCKS[kind](state, found, chat)
        events += more
    elif kind == "message_delta":
        state, more = _ending(state, found)
        events += more
    elif kind == "message_stop":
        state, last = _stop(state, {}, chat)
        events += [*last, *_closing(state)]
        state = replace(state, done=True)
    return state, [legacy.restored(event, chat) for event in events]


def _begin(found: Mapping[str, Any], chat: InferenceRequest) -> tuple[StreamState, list[Event]]:
    message = _object(found.get("message"))
    model = model_of(message)
    first = shape.head(CHAT_CHUNK, answer_id(message, chat), chat.created, model)
    reported = _object(message.get("usage"))
    role = shape.opening(first)._replace(usage=read_usage(usage(reported)))
    return StreamState(head=first, usage=reported), [role]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _index(state: StreamState, found: Mapping[str, Any]) -> int:
    """The block an event belongs to: the one in progress if the event names none."""
    index = number(found.get("index"))
    return state.place if index is None else index


# --- blocks --------------------------------------------------------------------------------------------------


def _content_events(state: StreamState, text: str, **delta: Any) -> list[Event]:
    return [shape.chunk(state.head or {}, delta, text=text)]


def _start(
    state: StreamState, found: Mapping[str, Any], chat: InferenceRequest
) -> tuple[StreamState, list[Event]]:
    state, earlier = _stop(state, {}, chat)  # in case the previous block was not ended
    block = _object(found.get("content_block"))
    place = _index(state, found)
    state = replace(state, block=block, place=place, streamed_input=False)
    match block.get("type"):
        case "tool_use":
            nth = state.called
            if nth >= MAX_TOOL_CALLS:
                wrong("bad_tool_calls")
            opened = call(block, "", f"call_{chat.id}_{nth}")
            state = replace(state, calls={**state.calls, place: nth}, called=nth + 1)
            content = _content_events(
                state, opened["function"]["name"], tool_calls=[{"index": nth, **opened}]
            )
            return state, [*earlier, *content]
        case "text" if text := words_at(block, "text"):
            return state, [*earlier, *_content_events(state, text, content=text)]
        case "thinking" if text := words_at(block, "thinking"):
            return state, [*earlier, *_content_events(state, text, reasoning_content=text)]
    return state, [*earlier, Event(b"", alive=True)]


def _delta(
    state: StreamState, found: Mapping[str, Any], chat: InferenceRequest
) -> tuple[StreamState, list[Event]]:
    delta = found.get("delta")
    if not isinstance(delta, dict):
        wrong("bad_delta")
    match delta.get("type"):
        case "text_delta" if text := words_at(delta, "text"):
            return state, _content_events(state, text, content=text)
        case "thinking_delta" if text := words_at(delta, "thinking"):
            return _with_part(state, "thinking", text), _content_events(state, text, reasoning_content=text)
        case "signature_delta":
            return _with_part(state, "signature", words_at(delta, "signature")), []
        case "input_json_delta" if text := words_at(delta, "partial_json"):
            if _index(state, found) in state.calls:
                return (state if state.streamed_input else replace(state, streamed_input=True)), _arguments(
                    state, found, text
                )
            if not state.block:
                wrong("call_without_name")
    return state, []


def _with_part(state: StreamState, name: str, text: str) -> StreamState:
    """Adds a piece of a field that is sent whole at the end of the block."""
    return replace(state, parts=(state.parts, (name, text)))


def _stop(
    state: StreamState, found: Mapping[str, Any], chat: InferenceRequest
) -> tuple[StreamState, list[Event]]:
    if not state.block or _index(state, found) != state.place:
        return state, []
    block = state.block
    closed = replace(state, block={}, parts=None, streamed_input=False)
    if block.get("type") in THINKING:
        # Sent whole, because clients must return it with the tool results.
        whole = _whole_block(block, state.parts)
        return closed, [shape.chunk(state.head or {}, {"thinking_blocks": [whole]}, content=False)]
    if block.get("type") == "tool_use" and not state.streamed_input and state.place in state.calls:
        return closed, _arguments(state, found, arguments(block))
    return closed, []


def _whole_block(block: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    pieces: dict[str, list[str]] = {}
    while parts is not None:
        parts, (name, text) = parts
        pieces.setdefault(name, []).append(text)
    joined = {name: text_at(block, name) + "".join(reversed(texts)) for name, texts in pieces.items()}
    return {**block, **joined}


def _arguments(state: StreamState, found: Mapping[str, Any], text: str) -> list[Event]:
    piece = {"index": state.calls[_index(state, found)], "function": {"arguments": text}}
    return _content_events(state, text, tool_calls=[piece])


BLOCKS = {"content_block_start": _start, "content_block_delta": _delta, "content_block_stop": _stop}


# --- the end -------------------------------------------------------------------------------------------------


def _ending(state: StreamState, found: Mapping[str, Any]) -> tuple[StreamState, list[Event]]:
    reported = {name: value for name, value in _object(found.get("usage")).items() if value is not None}
    state = replace(state, end=_object(found.get("delta")), usage={**state.usage, **reported})
    return state, [Event(b"", usage=read_usage(usage(state.usage)))]


def _closing(state: StreamState) -> list[Event]:
    first = state.head or {}
    reason = ended(state.end.get("stop_reason"), called=state.called > 0)
    content = refusal(state.end)
    events = [shape.chunk(first, content, text=content.get("refusal", ""), finish_reason=reason)]
    total = usage(state.usage)
    if total is not None:
        events.append(Event(b"", usage=read_usage(total)))
        events.append(usage_chunk(first["id"], first["created"], first["model"], total))
    return events
