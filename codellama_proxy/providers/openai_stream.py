"""A streamed answer in OpenAI's dialect, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy import failures
from codellama_proxy.chat import ChatRequest
from codellama_proxy.completion import usage_chunk
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.providers.openai_answer import (
    fill,
    fix_arguments,
    fix_finish,
    fix_logprobs,
    fix_message,
    fix_tool_call,
    in_band,
    name_of,
    spoken,
    tool_calls,
)
from codellama_proxy.providers.reading import object_in
from codellama_proxy.sse import DONE, Frame
from codellama_proxy.types import Deployment, Event
from codellama_proxy.usage import reported_in, usage_in

DELTAS = ("content", "tool_calls", "function_call", "reasoning_content", "refusal", "audio")
KIND = "chat.completion.chunk"


_NO_CALLS: Mapping[int, int] = {}
_NO_IDS: Mapping[tuple[int, int], str] = {}


class StreamState(NamedTuple):
    """What the next frame's meaning depends on."""

    id: str | None = None
    created: int = 0
    model: str | None = None
    named: frozenset[int] = frozenset()
    """Choices that said whose role they speak in; once is enough."""
    open: frozenset[int] = frozenset()
    """Choices that began and have not finished."""
    finished: bool = False
    """At least one choice gave its finish reason."""
    calls: Mapping[int, int] = _NO_CALLS
    """How many tools each choice called: then its end is `tool_calls` whatever the upstream says."""
    call_ids: Mapping[tuple[int, int], str] = _NO_IDS
    """By choice and index: some give every call the same number."""
    usage: Mapping[str, Any] | None = None
    """The latest report: some send a running total with every chunk, only the last one counts."""
    done: bool = False

    @property
    def complete(self) -> bool:
        """Nothing is missing, whether or not `[DONE]` came."""
        return self.done or (self.finished and not self.open)


def parse_stream(
    state: StreamState | None, frame: Frame, chat: ChatRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptFailed` for an error event."""
    state = state or StreamState()
    if frame.data == DONE:
        return state._replace(done=True), closing(state)
    chunk = object_in(frame.data)
    if chunk is None:
        return state, ()
    if chunk.get("error"):
        raise AttemptFailed(in_band(frame.data, chunk))
    choices = chunk.get("choices")
    told, usage = reported_in(chunk), usage_in(chunk)
    events: list[Event] = []
    if isinstance(choices, list) and choices:
        state, event = _content(state, chunk, frame.data, chat)
        events.append(event)
    if told is not None:  # after the content that it counts
        state = state._replace(usage=told)
        events.append(Event(b"", usage=usage, model=name_of(chunk)))
    return state, events


def _content(
    state: StreamState, chunk: dict[str, Any], raw: bytes, chat: ChatRequest
) -> tuple[StreamState, Event]:
    """A chunk that says something: the bytes that came, if nothing in them had to be changed."""
    raw, changed = _without_extras(chunk, raw)
    state, fixed = constant(state, chunk, chat)
    changed |= fixed
    text = ""
    reason = None
    meaningful = alive = False
    for choice in chunk["choices"]:
        if not isinstance(choice, dict):
            raise AttemptFailed(failures.disguised("no_choices", status=200))
        state, said, fixed = _choice(state, choice, chat)
        changed |= fixed
        text += said
        meaningful |= any(choice["delta"].get(name) for name in DELTAS)
        alive |= any(value for name, value in choice["delta"].items() if name != "role")
        reason = choice.get("finish_reason") or reason
    body = orjson.dumps(chunk) if changed else raw
    content = meaningful or reason is not None
    return state, Event(body, content, text, None, reason, state.model, alive=alive and not content)


def _without_extras(chunk: dict[str, Any], raw: bytes) -> tuple[bytes, bool]:
    """Takes away what belongs to the end of the stream, or to nobody; whether `raw` still has it."""
    changed = False
    if "usage" in chunk:
        # Nearly always a null that can be cut out: inside a JSON string the quotes would be escaped.
        raw = raw.replace(b',"usage":null', b"").replace(b', "usage": null', b"")
        changed = b'"usage"' in raw
        del chunk["usage"]
    for name in ("obfuscation", "x_groq"):
        if name in chunk:
            del chunk[name]
            changed = True
    return raw, changed


def constant(
    state: StreamState, chunk: dict[str, Any], chat: ChatRequest, kind: str = KIND
) -> tuple[StreamState, bool]:
    """The same `id` and `created` on every chunk: those of the first. Whether anything had to be changed."""
    changed = False
    if state.id is not None and (chunk.get("id") != state.id or chunk.get("created") != state.created):
        chunk["id"], chunk["created"] = state.id, state.created
        changed = True
    changed |= fill(chunk, kind, chat)
    if state.id is None:
        state = state._replace(id=chunk["id"], created=chunk["created"], model=name_of(chunk))
    return state, changed


def _choice(state: StreamState, choice: dict[str, Any], chat: ChatRequest) -> tuple[StreamState, str, bool]:
    """The state after one choice of a chunk, what it said, and whether it had to be changed."""
    changed = False
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = choice["delta"] = {}
        changed = True
    found = choice.get("index")
    index = found if isinstance(found, int) else 0
    if "role" in delta:
        if index in state.named:
            del delta["role"]
            changed = True
        state = state._replace(named=state.named | {index})
    changed |= fix_message(delta)
    if delta.get("tool_calls"):
        state, fixed = _number_calls(state, index, delta, chat)
        changed |= fixed
    said = spoken(delta)
    changed |= fix_logprobs(choice, said)
    if choice.get("finish_reason") is not None:
        state, fixed = _finish(state, index, choice, said)
        changed |= fixed
    elif said and index not in state.open:
        state = state._replace(open=state.open | {index})
    return state, said, changed


def _number_calls(
    state: StreamState, choice: int, delta: Mapping[str, Any], chat: ChatRequest
) -> tuple[StreamState, bool]:
    """Every fragment tells by `index` which call it belongs to; one with a name begins a call."""
    changed = False
    begun = state.calls.get(choice, 0)
    ids = dict(state.call_ids)
    for call in tool_calls(delta):
        function = call.get("function")
        begins = bool(isinstance(function, dict) and function.get("name"))
        found = call.get("index")
        index = int(found) if isinstance(found, int | float) else (begun if begins else max(begun - 1, 0))
        call_id = call.get("id")
        if begins and call_id and ids.setdefault((choice, index), call_id) != call_id:
            index = begun  # a call of its own under the number of an earlier one
            ids[choice, index] = call_id
        if not isinstance(found, int) or found != index:
            call["index"] = index
            changed = True
        changed |= fix_tool_call(call, f"call_{chat.id}_{choice}_{index}") if begins else fix_arguments(call)
        begun = max(begun, index + 1)
    if begun != state.calls.get(choice, 0):
        state = state._replace(calls={**state.calls, choice: begun}, call_ids=ids)
    return state, changed


def _finish(state: StreamState, index: int, choice: dict[str, Any], said: str) -> tuple[StreamState, bool]:
    """The finish reason in OpenAI's words; the choice is over."""
    changed = fix_finish(choice, said or ("open" if index in state.open else ""), choice["delta"])
    if state.calls.get(index) and choice["finish_reason"] == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    return state._replace(open=state.open - {index}, finished=True), changed


def closing(state: StreamState, kind: str = KIND) -> Sequence[Event]:
    """The usage chunk, once, at the end."""
    if state.usage is None:
        return ()
    return (usage_chunk(state.id or "", state.created, state.model, state.usage, kind),)
