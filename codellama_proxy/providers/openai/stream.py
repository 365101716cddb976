"""Parses streams in OpenAI's dialect, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.completion import CHAT_CHUNK, is_usage, message_text, usage_chunk
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import reported_in, usage_in
from codellama_proxy.providers.common import tool_calls
from codellama_proxy.providers.common.answers import usage_json
from codellama_proxy.providers.common.json_reading import is_done, model_of, piece_of, wrong
from codellama_proxy.providers.openai.response import (
    MAX_CHOICES,
    check_choice,
    fill,
    fix_finish,
    fix_indexes,
    fix_logprobs,
    fix_message,
)
from codellama_proxy.providers.openai.stream_state import NEW_CHOICE, ChoiceState, StreamState
from codellama_proxy.providers.openai.usual_chunk import usual_chunk

DELTAS = ("content", "tool_calls", "function_call", "reasoning_content", "refusal", "audio")


MAX_EDITED_BYTES = 64 << 10
"""Larger chunks are serialised again, because searching them takes longer."""


def parse_stream(
    state: StreamState | None, frame: Frame, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next frame. Raises `AttemptError` for an error or an invalid chunk."""
    state = state or StreamState(model=deployment.model, wanted=wanted(chat))
    return usual_chunk(state, frame) or parse_frame(state, frame, chat, CHAT_CHUNK, content)


ChunkParser = Callable[[StreamState, dict[str, Any], bytes, InferenceRequest], tuple[StreamState, Event]]


def parse_frame(
    state: StreamState, frame: Frame, chat: InferenceRequest, kind: str, parse_chunk: ChunkParser
) -> tuple[StreamState, Sequence[Event]]:
    """`parse_stream` for chunks whose `object` is `kind`; `parse_chunk` gets those that have choices."""
    if is_done(frame):
        return state._replace(done=True), _closing(state, kind)
    chunk = piece_of(frame)
    if chunk is None:
        return state, ()
    report = _reported(chunk)
    events: list[Event] = []
    if _has_choices(frame.data, chunk):
        state, event = parse_chunk(state, chunk, frame.data, chat)
        events.append(event)
    return _with_report(state, report, events)


def wanted(chat: InferenceRequest) -> int:
    """The number of requested choices."""
    n = chat.params.get("n")
    return n if isinstance(n, int) else 1


class UsageReport(NamedTuple):
    """The usage that a chunk reports."""

    shown: Mapping[str, Any]
    """The `usage` object, sent to the client at the end."""
    usage: Usage | None
    model: str | None


def _reported(chunk: Mapping[str, Any]) -> UsageReport | None:
    """The usage in a chunk; to be called before the chunk is changed."""
    usage = reported_in(chunk)
    return None if usage is None else UsageReport(usage, usage_in(chunk), model_of(chunk))


def _with_report(
    state: StreamState, report: UsageReport | None, events: list[Event]
) -> tuple[StreamState, Sequence[Event]]:
    """Appends the usage after the content that it counts."""
    if report is None:
        return state, events
    if is_usage(report.shown):
        state = state._replace(usage=report.shown)
    elif report.usage is not None:
        state = state._replace(usage=usage_json(report.usage))
    return state, [*events, Event(b"", usage=report.usage, model=report.model)]


def _has_choices(raw: bytes, chunk: dict[str, Any]) -> bool:
    """Whether a chunk has choices. Raises `AttemptError` for invalid ones."""
    choices = chunk.get("choices")
    if not choices:
        return False
    if not isinstance(choices, list) or len(choices) > MAX_CHOICES:
        wrong("no_choices")
    for choice in choices:
        check_choice(raw, choice)
    return True


def content(
    state: StreamState, chunk: dict[str, Any], raw: bytes, chat: InferenceRequest
) -> tuple[StreamState, Event]:
    """The event of a chunk with choices; its body is the original bytes unless something had to be changed."""
    raw, changed = _without_extras(chunk, raw)
    changed |= b"\n" in raw  # an event of several lines becomes one line
    state, fixed = constant(state, chunk, chat)
    changed |= fixed | fix_indexes(chunk["choices"])
    texts: list[str] = []
    reason = None
    meaningful = alive = False
    after: dict[int, ChoiceState] = {}
    finished = state.finished
    for choice in chunk["choices"]:
        index = choice["index"]
        before = state.choices.get(index, NEW_CHOICE)
        now, text, fixed = _choice(before, choice, f"call_{chat.id}_{index}")
        if now != before:
            after[index] = now
        changed |= fixed
        texts.append(text)
        meaningful |= any(choice["delta"].get(name) for name in DELTAS)
        alive |= now.calls is not before.calls
        alive |= any(value for name, value in choice["delta"].items() if name != "role")
        if ended := choice.get("finish_reason"):
            reason, finished = ended, finished + 1
    state = state.with_choices(after, finished)
    body = orjson.dumps(chunk) if changed else raw
    text, content = "".join(texts), meaningful or reason is not None
    return state, Event(body, content, text, None, reason, state.model, alive=alive and not content)


def _without_extras(chunk: dict[str, Any], raw: bytes) -> tuple[bytes, bool]:
    """Removes usage and vendor fields from the chunk. Returns `raw`, and whether it still has any of them."""
    changed = False
    if len(raw) > MAX_EDITED_BYTES:
        chunk.pop("usage", None)
        changed = True
    elif "usage" in chunk:
        # Usually a null that can be cut out: inside a JSON string the quotes would be escaped.
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
    """Gives every chunk the `id` and `created` of the first one. Returns whether the chunk was changed."""
    changed = False
    ids = chunk.get("id"), chunk.get("created")
    if state.id is not None and (ids != (state.id, state.created) or type(ids[1]) is not int):
        chunk["id"], chunk["created"] = state.id, state.created
        changed = True
    changed |= fill(chunk, kind, chat, state.model)
    if state.id is None:
        state = state._replace(id=chunk["id"], created=chunk["created"], model=model_of(chunk))
    return state, changed


def _choice(before: ChoiceState, choice: dict[str, Any], own_id: str) -> tuple[ChoiceState, str, bool]:
    """The state after one choice of a chunk, the text in it, and whether it was changed."""
    by_delta = isinstance(choice.get("delta"), dict)
    delta, changed = _delta(before, choice)
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
    text = message_text(delta)
    changed |= fix_logprobs(choice, text)
    changed |= fix_finish(choice, text or ("open" if state.open else ""), delta)
    if choice.get("finish_reason"):
        state, fixed = _finish(state, choice)
        changed |= fixed
    elif text and not state.open:
        state = state._replace(open=True)
    if by_delta and not state.by_deltas and delta.get("content"):
        state = state._replace(by_deltas=True)
    return state, text, changed


def _delta(before: ChoiceState, choice: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The delta of a choice, and whether the choice was changed.

    A message in place of a delta is one. Beside or after deltas it repeats the answer so far (Perplexity, MiniMax).
    """
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return delta, choice.pop("message", None) is not None
    if delta:
        wrong("bad_delta")
    message, text = choice.pop("message", None), choice.pop("text", None)
    if not isinstance(message, dict | None) or not isinstance(text, str | None):
        wrong("bad_delta")
    delta = {**message} if message else {"content": text} if text else {}
    if before.by_deltas:
        delta = {"tool_calls": delta["tool_calls"]} if delta.get("tool_calls") else {}
    if message and before.calls.begun:
        delta.pop("tool_calls", None)
    choice["delta"] = delta
    return delta, True


def _calls(state: ChoiceState, delta: dict[str, Any], own_id: str) -> tuple[ChoiceState, bool]:
    if not delta["tool_calls"]:
        del delta["tool_calls"]
        return state, True
    calls, changed = tool_calls.numbered(state.calls, delta, own_id)
    return (state if calls is state.calls else state._replace(calls=calls)), changed


def _finish(state: ChoiceState, choice: dict[str, Any]) -> tuple[ChoiceState, bool]:
    """The state after a choice's finish reason, and whether the choice was changed."""
    changed = False
    if state.calls.begun and choice["finish_reason"] == "stop":
        choice["finish_reason"] = "tool_calls"
        changed = True
    calls, added = tool_calls.ended(state.calls, choice["delta"], whole=choice["finish_reason"] != "length")
    return state._replace(open=False, calls=calls), changed or added


def _closing(state: StreamState, kind: str) -> Sequence[Event]:
    """The usage chunk at the end of the stream, if usage was reported."""
    if state.usage is None:
        return ()
    return (usage_chunk(state.id or "", state.created, state.model, state.usage, kind),)
