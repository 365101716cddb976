"""Reads streams of OpenAI's Responses API as chat chunks.

Items are numbered; of their pieces only texts and calls of the client's tools have a place in a chat. The last event
repeats the whole answer, from which items are read that the stream left out.
(platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.openai_format.completion import CHAT_CHUNK
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common import json_documents
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common.json_reading import model_of, piece_of, text_at, words_at, wrong
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS, number
from codellama_proxy.providers.openai.responses_answer import (
    CALLS,
    answer_id,
    arguments_of,
    call_of,
    failure_of,
    finish_reason,
    hosted_calls,
    texts_of,
    usage_of,
)

TEXT_DELTAS: Mapping[str, str] = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning_content",
    "response.reasoning_text.delta": "reasoning_content",
}
"""Events with a piece of text, and the field of a chat's delta that it belongs to."""
CALL_DELTAS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")


@dataclass(frozen=True, slots=True)
class StreamState:
    """What parsing the next frame depends on."""

    head: Mapping[str, Any] | None = None
    """The fields that every chunk begins with; `None` before the first one."""
    calls: Mapping[int, int] = field(default_factory=dict)
    """The number of each tool call, by the index of its item."""
    begun: frozenset[int] = frozenset()
    """Indexes of the items of which pieces were received."""
    ended: frozenset[int] = frozenset()
    """Indexes of the items that are complete."""
    done: bool = False

    @property
    def complete(self) -> bool:
        return self.done


Read = tuple[StreamState, list[Event]]


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for an error event."""
    del deployment
    state = state or StreamState()
    found = piece_of(frame, json_documents.whole)  # the last one is a whole answer
    if found is None:
        return state, ()
    kind = text_at(found, "type") or frame.event
    if not kind.startswith("response."):
        return state, ()
    events: list[Event] = []
    if state.head is None:
        state, events = _begin(found, chat)
    read = _reader(kind)
    if read is not None:
        state, more = read(state, found, chat)
        events += more
    return state, [legacy.restored(event, chat) for event in events]


def _reader(kind: str) -> Callable[[StreamState, Mapping[str, Any], InferenceRequest], Read] | None:
    if kind in TEXT_DELTAS:
        name = TEXT_DELTAS[kind]
        return lambda state, found, _: _text(state, found, name)
    return READERS.get(kind)


def _begin(found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    response = _object(found.get("response"))
    first = shape.head(CHAT_CHUNK, answer_id(response, chat), chat.created, model_of(response))
    return StreamState(head=first), [shape.opening(first)]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _index(found: Mapping[str, Any]) -> int:
    return number(found.get("output_index")) or 0


def _chunk(state: StreamState, text: str, **delta: Any) -> Event:
    return shape.chunk(state.head or {}, delta, text=text)


# --- items -------------------------------------------------------------------------------------------------------


def _added(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    """The beginning of an item: the name of a call; nothing else that a chat shows."""
    item = _object(found.get("item"))
    if item.get("type") not in CALLS or _index(found) in state.calls:
        return state, [Event(b"", alive=True)]
    return _call(state, _index(found), item, chat)


def _call(state: StreamState, index: int, item: Mapping[str, Any], chat: InferenceRequest) -> Read:
    nth = len(state.calls)
    if nth >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    call = call_of(item, "", f"call_{chat.id}_{nth}")
    state = replace(state, calls={**state.calls, index: nth})
    return state, [_chunk(state, call["function"]["name"], tool_calls=[{"index": nth, **call}])]


def _text(state: StreamState, found: Mapping[str, Any], name: str) -> Read:
    text = words_at(found, "delta")
    if not text:
        return state, []
    return _with_begun(state, _index(found)), [_chunk(state, text, **{name: text})]


def _arguments(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    del chat
    text, index = words_at(found, "delta"), _index(found)
    if not text:
        return state, []
    if index not in state.calls:
        wrong("call_without_name")
    return _with_begun(state, index), [_arguments_chunk(state, index, text)]


def _arguments_chunk(state: StreamState, index: int, text: str) -> Event:
    return _chunk(state, text, tool_calls=[{"index": state.calls[index], "function": {"arguments": text}}])


def _with_begun(state: StreamState, index: int) -> StreamState:
    """The same object if the item has begun: the templates of a stream depend on it."""
    return state if index in state.begun else replace(state, begun=state.begun | {index})


def _item_done(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    return _rest(state, _index(found), _object(found.get("item")), chat)


def _rest(state: StreamState, index: int, item: Mapping[str, Any], chat: InferenceRequest) -> Read:
    """What a complete item has that did not come in pieces."""
    if index in state.ended:
        return state, []
    events: list[Event] = []
    if item.get("type") in CALLS and index not in state.calls:
        state, events = _call(state, index, item, chat)
    state = replace(state, ended=state.ended | {index})
    if index in state.begun:
        return state, events
    if index in state.calls and (text := arguments_of(item)):
        events.append(_arguments_chunk(state, index, text))
    events += [_chunk(state, text, **{name: text}) for name, text in texts_of(item)]
    return state, events


# --- the end -----------------------------------------------------------------------------------------------------


def _completed(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    response = _object(found.get("response"))
    output = response.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    events: list[Event] = []
    for index, item in enumerate(items):
        state, more = _rest(state, index, item, chat)
        events += more
    first = state.head or {}
    reason = finish_reason(response, called=bool(state.calls))
    events.append(shape.chunk(first, {}, finish_reason=reason))
    usage = usage_of(response, hosted_calls(items))
    events += shape.closing(first, None if usage is None else shape.usage_json(usage))
    return replace(state, done=True), events


def _failed(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    raise AttemptError(failure_of(_object(found.get("response"))))


READERS: Mapping[str, Callable[[StreamState, Mapping[str, Any], InferenceRequest], Read]] = {
    "response.output_item.added": _added,
    "response.output_item.done": _item_done,
    **dict.fromkeys(CALL_DELTAS, _arguments),
    "response.completed": _completed,
    "response.incomplete": _completed,
    "response.failed": _failed,
}
