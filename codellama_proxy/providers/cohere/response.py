"""Cohere's v2 answers, whole and streamed, in OpenAI's shape.

A stream's `index` numbers its content blocks and tool calls, never choices: there is always one choice. What it
plans to do with tools is reasoning, not content. Citations and debug events are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from codellama_proxy.core.snapshot import Deployment, Json
from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.failures import classify as failures
from codellama_proxy.failures.classify import AttemptError
from codellama_proxy.failures.error_body import UpstreamError
from codellama_proxy.openai_format.completion import CHAT_CHUNK, message_text
from codellama_proxy.openai_format.request import InferenceRequest
from codellama_proxy.openai_format.usage import read_usage
from codellama_proxy.providers.common import answers as shape
from codellama_proxy.providers.common import legacy_functions as legacy
from codellama_proxy.providers.common import tool_calls
from codellama_proxy.providers.common.finish_reasons import ABANDONED, BROKEN_FINISH, finish_reason
from codellama_proxy.providers.common.json_reading import (
    dig,
    listed,
    load_answer,
    piece_of,
    text_at,
    words_at,
    wrong,
)
from codellama_proxy.providers.common.tool_calls import MAX_TOOL_CALLS, number


def parse_response(body: bytes, chat: InferenceRequest, deployment: Deployment) -> Event:
    """A whole answer as one event. Raises `AttemptError` when a 200 is not an answer."""
    found = load_answer(body)
    if not isinstance(found.get("message"), Mapping):
        wrong("no_message")
    message = _message(found["message"], chat)
    text = message_text(message)
    ended = text_at(found, "finish_reason")
    if ended.lower() in ABANDONED or (ended.lower() in BROKEN_FINISH and not text):
        wrong("finish_error")
    reason = _reason(ended, called="tool_calls" in message)
    first = _head("chat.completion", found.get("id"), chat, deployment)
    logprobs = _logprobs(found.get("logprobs"))
    event = shape.completion(first, message, reason, _usage(found.get("usage")), text, logprobs=logprobs)
    return legacy.restored(event, chat)


def _head(kind: str, answer_id: Any, chat: InferenceRequest, deployment: Deployment) -> dict[str, Any]:
    own = answer_id if isinstance(answer_id, str) and answer_id else chat.id
    return shape.head(kind, f"chatcmpl-{own}", chat.created, deployment.model)


def _message(message: Json, chat: InferenceRequest) -> dict[str, Any]:
    parts = message.get("content")
    blocks = [parts] if isinstance(parts, str) else listed(parts)
    text = "".join(one if isinstance(one, str) else words_at(one, "text") for one in blocks)
    thoughts = words_at(message, "tool_plan") + "".join(words_at(one, "thinking") for one in blocks)
    called = {"tool_calls": message.get("tool_calls")}
    tool_calls.whole(called, f"call_{chat.id}")
    calls = listed(called.get("tool_calls"))
    said: dict[str, Any] = {"content": text or (None if calls else "")}
    if thoughts:
        said["reasoning_content"] = thoughts
    if calls:
        said["tool_calls"] = calls
    return said


def _reason(ended: str, *, called: bool) -> str:
    reason = finish_reason(ended)
    return "tool_calls" if called and reason == "stop" else reason


def _usage(reported: Any) -> dict[str, Any] | None:
    """What the tokens say, or what was billed where they say nothing; both are floats on the wire."""
    read = read_usage(
        {
            **_object(dig(reported, "billed_units")),
            **_object(dig(reported, "tokens")),
            "cached_tokens": dig(reported, "cached_tokens"),
        }
    )
    return None if read is None else shape.usage_json(read)


def _object(found: Any) -> Json:
    return found if isinstance(found, Mapping) else {}


def _logprobs(items: Any) -> list[Json]:
    """One entry for each piece of text; where a piece has several tokens, their probabilities multiply."""
    return [
        {"token": text_at(one, "text"), "logprob": sum(values), "bytes": None, "top_logprobs": []}
        for one in (items if isinstance(items, list) else [items])
        if isinstance(values := dig(one, "logprobs"), list)
        and all(isinstance(value, int | float) for value in values)
    ]


# --- streams -------------------------------------------------------------------------------------------------

SPEAKING = frozenset(
    {
        *("message-start", "message-end", "content-start", "content-delta", "tool-plan-delta"),
        *("tool-call-start", "tool-call-delta", "tool-call-end"),
    }
)
"""Events that concern the client; there are more, and there will be."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the next event's meaning depends on."""

    first: Json | None = None
    """What every chunk begins with, once the opening one has gone out."""
    calls: Mapping[int | None, int] = field(default_factory=dict)
    """Which of our tool calls an event's index means."""
    called: int = 0
    """How many there were."""
    silent: frozenset[int] = frozenset()
    """Calls without arguments so far."""
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
    state, events = _events(state, found, chat, deployment)
    return state, [legacy.restored(event, chat) for event in events]


def _events(
    state: StreamState, found: Json, chat: InferenceRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    kind = text_at(found, "type")
    if kind not in SPEAKING:
        return state, ()
    opened: list[Event] = []
    if state.first is None:
        state = replace(state, first=_head(CHAT_CHUNK, found.get("id"), chat, deployment))
        opened.append(shape.opening(state.first or {}))
    message = dig(found, "delta", "message")
    said: Sequence[Event]
    match kind:
        case "message-start":
            said = ()
        case "tool-call-start":
            state, said = _call_began(state, found, dig(message, "tool_calls"), chat)
        case "tool-call-delta":
            state, said = _call_went_on(
                state, found, words_at(message, "tool_calls", "function", "arguments")
            )
        case "tool-call-end":
            state, said = _call_ended(state, found)
        case "message-end":
            state, said = _ended(state, found)
        case _:
            said = _said(state, message, found.get("logprobs"))
            if not said and kind == "content-start":
                said = [Event(b"", alive=True)]
    return state, [*opened, *said]


def _said(state: StreamState, message: Any, logprobs: Any) -> list[Event]:
    text, thought = words_at(message, "content", "text"), words_at(message, "content", "thinking")
    thought += words_at(message, "tool_plan")
    said = {name: value for name, value in (("reasoning_content", thought), ("content", text)) if value}
    return [_chunk(state, said, _logprobs(logprobs))] if said else []


def _chunk(state: StreamState, delta: Json, logprobs: Sequence[Json] = ()) -> Event:
    return shape.chunk(state.first or {}, delta, text=message_text(delta), logprobs=logprobs)


def _call_began(
    state: StreamState, found: Json, call: Any, chat: InferenceRequest
) -> tuple[StreamState, Sequence[Event]]:
    """Renumbers the calls: an event's index may start at any number."""
    index = state.called
    name, arguments = words_at(call, "function", "name"), words_at(call, "function", "arguments")
    if not name or index >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    begun = {
        "index": index,
        "id": text_at(call, "id") or f"call_{chat.id}_{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    calls = {**state.calls, _index(found): index}
    silent = state.silent if arguments else state.silent | {index}
    state = replace(state, calls=calls, called=index + 1, silent=silent)
    return state, [_chunk(state, {"tool_calls": [begun]})]


def _index(found: Json) -> int | None:
    return number(found.get("index"))


def _call_went_on(state: StreamState, found: Json, arguments: str) -> tuple[StreamState, Sequence[Event]]:
    index = state.calls.get(_index(found), state.called - 1)
    if not arguments or index < 0:
        return state, ()
    delta = {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
    if index in state.silent:
        state = replace(state, silent=state.silent - {index})
    return state, [_chunk(state, delta)]


def _call_ended(state: StreamState, found: Json) -> tuple[StreamState, Sequence[Event]]:
    """No arguments at all are an empty object of them."""
    if state.calls.get(_index(found)) not in state.silent:
        return state, ()
    return _call_went_on(state, found, "{}")


def _ended(state: StreamState, found: Json) -> tuple[StreamState, Sequence[Event]]:
    """The finish reason, then the usage. Raises `AttemptError` when it ended because the upstream broke."""
    error, ended = text_at(found, "delta", "error"), text_at(found, "delta", "finish_reason")
    if error:
        raise AttemptError(failures.in_band(UpstreamError(message=error), 200))
    if ended.lower() in ABANDONED | BROKEN_FINISH:
        wrong("finish_error")
    first = state.first or {}
    end = shape.chunk(first, {}, finish_reason=_reason(ended, called=state.called > 0))
    return replace(state, done=True), [end, *shape.closing(first, _usage(dig(found, "delta", "usage")))]
