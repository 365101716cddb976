"""Reads streams of OpenAI's Responses API as chat chunks.

Items are numbered; of their pieces only texts and calls of the client's tools have a place in a chat. The last event
repeats the whole answer, from which items are read that the stream left out.
(platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from codellama_proxy.providers.common.json_reading import (
    count_at,
    model_of,
    objects,
    piece_of,
    text_at,
    words_at,
    wrong,
)
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS
from codellama_proxy.providers.openai.responses_answer import (
    answer_id,
    arguments_of,
    call_of,
    failure_of,
    finish_reason,
    hosted_calls,
    kind_of,
    texts_of,
    usage_of,
)
from codellama_proxy.providers.openai.responses_items import (
    Item,
    Items,
    Kind,
    Names,
    names_of,
    names_of_piece,
)

TEXT_DELTAS: Mapping[str, tuple[Kind, str]] = {
    "response.output_text.delta": ("message", "content"),
    "response.refusal.delta": ("message", "refusal"),
    "response.reasoning_summary_text.delta": ("reasoning", "reasoning_content"),
    "response.reasoning_text.delta": ("reasoning", "reasoning_content"),
}
"""Events with a piece of text, the kind of their item, and the field of a chat's delta that the text belongs to."""
CALL_DELTAS = ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta")
ARGUMENTS = "arguments"
BEGINNINGS = ("response.created", "response.queued", "response.in_progress")
"""Events at the beginning, whatever status they give."""
GOING_ON = ("", "queued", "in_progress")
"""States of an answer that has not ended."""
ENDED = ("completed", "incomplete")
"""States of an answer that may be used; every other one is a failure."""

NO_ITEMS = Items()


@dataclass(frozen=True, slots=True)
class StreamState:
    """What parsing the next frame depends on."""

    head: Mapping[str, Any] | None = None
    """The fields that every chunk begins with; `None` before the first one."""
    items: Items = NO_ITEMS
    calls: int = 0
    """The number of tool calls."""
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
    read = _reader(kind, found)
    if read is not None:
        state, more = read(state, found, chat)
        events += more
    return state, [legacy.restored(event, chat) for event in events]


def _reader(
    kind: str, found: Mapping[str, Any]
) -> Callable[[StreamState, Mapping[str, Any], InferenceRequest], Read] | None:
    if kind in TEXT_DELTAS:
        of_kind, name = TEXT_DELTAS[kind]
        return lambda state, found, _: _text(state, found, of_kind, name)
    if kind in READERS or kind in BEGINNINGS:
        return READERS.get(kind)
    status = text_at(found, "response", "status")
    return None if status in GOING_ON else _completed if status in ENDED else _failed


def _begin(found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    response = _object(found.get("response"))
    first = shape.head(CHAT_CHUNK, answer_id(response, chat), chat.created, model_of(response))
    return StreamState(head=first), [shape.opening(first)]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _chunk(state: StreamState, text: str, **delta: Any) -> Event:
    return shape.chunk(state.head or {}, delta, text=text)


# --- items -------------------------------------------------------------------------------------------------------


def _added(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    """The beginning of an item: the name of a call; nothing else that a chat shows."""
    item = _object(found.get("item"))
    kind, names = kind_of(item), names_of(item, count_at(found, "output_index"))
    events = [Event(b"", alive=True)]
    if kind is None or state.items.of_announcement(names, kind) is not None:
        return state, events
    state, _, begun = _new(state, names, kind, item, chat)
    return state, begun or events


def _new(
    state: StreamState, names: Names, kind: Kind, item: Mapping[str, Any], chat: InferenceRequest
) -> tuple[StreamState, int, list[Event]]:
    """With one more item, its place, and the event that names a call."""
    nth = state.calls
    items, at = state.items.added(names, Item(kind, nth))
    state = replace(state, items=items)
    if kind != "call":
        return state, at, []
    if nth >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    call = call_of(item, "", f"call_{chat.id}_{nth}")
    state = replace(state, calls=nth + 1)
    return state, at, [_chunk(state, call["function"]["name"], tool_calls=[{"index": nth, **call}])]


def _text(state: StreamState, found: Mapping[str, Any], kind: Kind, name: str) -> Read:
    text = words_at(found, "delta")
    if not text:
        return state, []
    names = names_of_piece(found)
    items, at = state.items.of_piece(names, kind)
    if at is None:
        items, at = items.added(names, Item(kind, announced=False))
    return _with_items(state, items.begin(at, name)), [_chunk(state, text, **{name: text})]


def _arguments(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    del chat
    text = words_at(found, "delta")
    if not text:
        return state, []
    items, at = state.items.of_piece(names_of_piece(found), "call")
    if at is None:
        wrong("call_without_name")
    state = _with_items(state, items.begin(at, ARGUMENTS))
    return state, [_arguments_chunk(state, at, text)]


def _arguments_chunk(state: StreamState, at: int, text: str) -> Event:
    nth = state.items.known[at].call
    return _chunk(state, text, tool_calls=[{"index": nth, "function": {ARGUMENTS: text}}])


def _with_items(state: StreamState, items: Items) -> StreamState:
    """The same object if the items are the same: the templates of a stream depend on it."""
    return state if items is state.items else replace(state, items=items)


def _item_done(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    item = _object(found.get("item"))
    kind, names = kind_of(item), names_of(item, count_at(found, "output_index"))
    if kind is None:
        return state, []
    return _rest(state, state.items.of_end(names, kind), names, kind, item, chat)


def _rest(
    state: StreamState,
    at: int | None,
    names: Names,
    kind: Kind,
    item: Mapping[str, Any],
    chat: InferenceRequest,
) -> Read:
    """What the complete item at this place (`None`: a new one) has that did not come in pieces."""
    events: list[Event] = []
    if at is None:
        state, at, events = _new(state, names, kind, item, chat)
    known = state.items.known[at]
    if known.ended:
        return state, events
    state = replace(state, items=state.items.end(at))
    if kind == "call" and ARGUMENTS not in known.begun and (text := arguments_of(item)):
        events.append(_arguments_chunk(state, at, text))
    events += [
        _chunk(state, text, **{name: text}) for name, text in texts_of(item) if name not in known.begun
    ]
    return state, events


# --- the end -----------------------------------------------------------------------------------------------------


def _completed(state: StreamState, found: Mapping[str, Any], chat: InferenceRequest) -> Read:
    response = _object(found.get("response"))
    items = objects(response.get("output"))
    whole = [
        (names_of(item, index), kind, item)
        for index, item in enumerate(items)
        if (kind := kind_of(item)) is not None
    ]
    places = state.items.of_output([(names, kind) for names, kind, _ in whole])
    events: list[Event] = []
    for at, (names, kind, item) in zip(places, whole, strict=True):
        state, more = _rest(state, at, names, kind, item, chat)
        events += more
    first = state.head or {}
    reason = finish_reason(response, called=state.calls > 0)
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
"""Events with parts of the answer; those with another name may still end it, by its status."""
