"""A streamed answer in OpenAI's dialect, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import DONE, Frame
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.completion import CHAT_CHUNK, message_text, usage_chunk
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import reported_in, usage_in
from codellama_proxy.providers.common import tool_calls
from codellama_proxy.providers.common.answers import usage_json
from codellama_proxy.providers.common.json_reading import model_of, piece_of, wrong
from codellama_proxy.providers.common.tool_calls import Calls
from codellama_proxy.providers.openai.response import (
    MAX_CHOICES,
    check_choice,
    fill,
    fix_finish,
    fix_indexes,
    fix_logprobs,
    fix_message,
    is_usage,
)

DELTAS = ("content", "tool_calls", "function_call", "reasoning_content", "refusal", "audio")


class ChoiceState(NamedTuple):
    """One choice of a stream, so far."""

    named: bool = False
    """It said whose role it speaks in; once is enough."""
    open: bool = False
    """It said something and has not finished."""
    calls: Calls = Calls()


_NEW = ChoiceState()
_NONE: Mapping[int, ChoiceState] = {}


class StreamState(NamedTuple):
    """What the next frame's meaning depends on."""

    id: str | None = None
    created: int = 0
    model: str | None = None
    choices: Mapping[int, ChoiceState] = _NONE
    finished: int = 0
    """How many times a choice gave its finish reason."""
    wanted: int = 1
    """How many choices were asked for."""
    usage: Mapping[str, Any] | None = None
    """The latest report: some send a running total with every chunk, only the last one counts."""
    done: bool = False

    @property
    def complete(self) -> bool:
        """Nothing is missing, whether or not `[DONE]` came."""
        whole = self.finished >= self.wanted
        return self.done or (whole and not any(one.open for one in self.choices.values()))

    def with_choices(self, changed: Mapping[int, ChoiceState]) -> StreamState:
        """Raises `AttemptError` when there are more than any answer has."""
        if not changed:
            return self
        choices = {**self.choices, **changed}
        if len(choices) > MAX_CHOICES:
            wrong("too_many_choices")
        return self._replace(choices=choices)


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptError` for errors and what is no chunk."""
    state = state or StreamState(wanted=wanted(chat))
    if frame.data.strip() == DONE:
        return state._replace(done=True), closing(state)
    chunk = piece_of(frame)
    if chunk is None:
        return state, ()
    told = reported(chunk)
    events: list[Event] = []
    if begun(frame.data, chunk):
        state, event = _content(state, chunk, frame.data, chat)
        events.append(event)
    return with_report(state, told, events)


def wanted(chat: InferenceRequest) -> int:
    """How many choices an answer to it has."""
    n = chat.params.get("n")
    return n if isinstance(n, int) else 1


class Report(NamedTuple):
    """What a chunk tells about usage."""

    shown: Mapping[str, Any]
    """For the client, at the end."""
    usage: Usage | None
    model: str | None


def reported(chunk: Mapping[str, Any]) -> Report | None:
    """To be read before the chunk is changed."""
    told = reported_in(chunk)
    return None if told is None else Report(told, usage_in(chunk), model_of(chunk))


def with_report(
    state: StreamState, told: Report | None, events: list[Event]
) -> tuple[StreamState, Sequence[Event]]:
    """The usage comes after the content that it counts."""
    if told is None:
        return state, events
    if is_usage(told.shown):
        state = state._replace(usage=told.shown)
    elif told.usage is not None:
        state = state._replace(usage=usage_json(told.usage))
    return state, [*events, Event(b"", usage=told.usage, model=told.model)]


def begun(raw: bytes, chunk: dict[str, Any]) -> bool:
    """Whether a chunk has choices. Raises `AttemptError` for those that are none."""
    choices = chunk.get("choices")
    if not choices:
        return False
    if not isinstance(choices, list) or len(choices) > MAX_CHOICES:
        wrong("no_choices")
    for choice in choices:
        check_choice(raw, choice)
    return True


def _content(
    state: StreamState, chunk: dict[str, Any], raw: bytes, chat: InferenceRequest
) -> tuple[StreamState, Event]:
    """A chunk that says something: the bytes that came, if nothing in them had to be changed."""
    raw, changed = _without_extras(chunk, raw)
    changed |= b"\n" in raw  # an event of several lines: clients get one
    state, fixed = constant(state, chunk, chat)
    changed |= fixed | fix_indexes(chunk["choices"])
    texts: list[str] = []
    reason = None
    meaningful = alive = False
    after: dict[int, ChoiceState] = {}
    finished = state.finished
    for choice in chunk["choices"]:
        index = choice["index"]
        before = state.choices.get(index, _NEW)
        now, said, fixed = _choice(before, choice, f"call_{chat.id}_{index}")
        if now != before:
            after[index] = now
        changed |= fixed
        texts.append(said)
        meaningful |= any(choice["delta"].get(name) for name in DELTAS)
        alive |= now.calls is not before.calls
        alive |= any(value for name, value in choice["delta"].items() if name != "role")
        if ended := choice.get("finish_reason"):
            reason, finished = ended, finished + 1
    state = state.with_choices(after)
    if finished != state.finished:
        state = state._replace(finished=finished)
    body = orjson.dumps(chunk) if changed else raw
    said, content = "".join(texts), meaningful or reason is not None
    return state, Event(body, content, said, None, reason, state.model, alive=alive and not content)


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
    state: StreamState, chunk: dict[str, Any], chat: InferenceRequest, kind: str = CHAT_CHUNK
) -> tuple[StreamState, bool]:
    """The same `id` and `created` on every chunk: those of the first. Whether anything had to be changed."""
    changed = False
    told = chunk.get("id"), chunk.get("created")
    if state.id is not None and (told != (state.id, state.created) or type(told[1]) is not int):
        chunk["id"], chunk["created"] = state.id, state.created
        changed = True
    changed |= fill(chunk, kind, chat)
    if state.id is None:
        state = state._replace(id=chunk["id"], created=chunk["created"], model=model_of(chunk))
    return state, changed


def _choice(before: ChoiceState, choice: dict[str, Any], own_id: str) -> tuple[ChoiceState, str, bool]:
    """The state after one choice of a chunk, what it said, and whether it had to be changed."""
    delta, changed = _delta(choice)
    state = before
    if "role" in delta:
        if state.named:
            del delta["role"]
            changed = True
        else:
            state = state._replace(named=True)
    changed |= fix_message(delta)
    if "tool_calls" in delta:
        state, fixed = _calls(state, delta, own_id)
        changed |= fixed
    said = message_text(delta)
    changed |= fix_logprobs(choice, said)
    changed |= fix_finish(choice, said or ("open" if state.open else ""), delta)
    if choice.get("finish_reason"):
        state, fixed = _finish(state, choice)
        changed |= fixed
    elif said and not state.open:
        state = state._replace(open=True)
    return state, said, changed


def _delta(choice: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What a choice adds, wherever the upstream put it, and whether that was another place."""
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return delta, False
    if delta:
        wrong("bad_delta")
    message, text = choice.pop("message", None), choice.pop("text", None)
    if not isinstance(message, dict | None) or not isinstance(text, str | None):
        wrong("bad_delta")
    choice["delta"] = message or ({"content": text} if text else {})
    return choice["delta"], True


def _calls(state: ChoiceState, delta: dict[str, Any], own_id: str) -> tuple[ChoiceState, bool]:
    if not delta["tool_calls"]:
        del delta["tool_calls"]
        return state, True
    calls, changed = tool_calls.numbered(state.calls, delta, own_id)
    return (state if calls is state.calls else state._replace(calls=calls)), changed


def _finish(state: ChoiceState, choice: dict[str, Any]) -> tuple[ChoiceState, bool]:
    """The end of a choice. Whether it had to be changed."""
    changed = False
    if state.calls.begun and choice["finish_reason"] == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    calls, added = tool_calls.ended(state.calls, choice["delta"], whole=choice["finish_reason"] != "length")
    return state._replace(open=False, calls=calls), changed or added


def closing(state: StreamState, kind: str = CHAT_CHUNK) -> Sequence[Event]:
    """The usage chunk, once, at the end."""
    if state.usage is None:
        return ()
    return (usage_chunk(state.id or "", state.created, state.model, state.usage, kind),)
