"""Converts Cohere's v2 answers, plain and streamed, to OpenAI's format.

`index` in a stream numbers content blocks and tool calls; there is always one choice. The tool plan becomes reasoning.
Citations and debug events are ignored.
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
    """A plain answer as one event. Raises `AttemptError` if a 200 is not an answer."""
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
    built: dict[str, Any] = {"content": text or (None if calls else "")}
    if thoughts:
        built["reasoning_content"] = thoughts
    if calls:
        built["tool_calls"] = calls
    return built


def _reason(ended: str, *, called: bool) -> str:
    reason = finish_reason(ended)
    return "tool_calls" if called and reason == "stop" else reason


def _usage(reported: Any) -> dict[str, Any] | None:
    """The usage from `tokens`, else from `billed_units`; both contain floats."""
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
    """One entry per piece of text; the log probabilities of its tokens are added."""
    return [
        {"token": text_at(one, "text"), "logprob": sum(values), "bytes": None, "top_logprobs": []}
        for one in (items if isinstance(items, list) else [items])
        if isinstance(values := dig(one, "logprobs"), list)
        and all(isinstance(value, int | float) for value in values)
    ]


# --- streams -------------------------------------------------------------------------------------------------

CLIENT_EVENTS = frozenset(
    {
        *("message-start", "message-end", "content-start", "content-delta", "tool-plan-delta"),
        *("tool-call-start", "tool-call-delta", "tool-call-end"),
    }
)
"""Event types that are sent to the client; all others are ignored."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What parsing the next frame depends on."""

    first: Json | None = None
    """The fields that every chunk begins with; `None` before the first one."""
    calls: Mapping[int | None, int] = field(default_factory=dict)
    """Our number of a tool call, by the upstream's index."""
    called: int = 0
    """The number of tool calls so far."""
    without_arguments: frozenset[int] = frozenset()
    """Calls that have no arguments so far."""
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
    if kind not in CLIENT_EVENTS:
        return state, ()
    opened: list[Event] = []
    if state.first is None:
        state = replace(state, first=_head(CHAT_CHUNK, found.get("id"), chat, deployment))
        opened.append(shape.opening(state.first or {}))
    message = dig(found, "delta", "message")
    events: Sequence[Event]
    match kind:
        case "message-start":
            events = ()
        case "tool-call-start":
            state, events = _begin_call(state, found, dig(message, "tool_calls"), chat)
        case "tool-call-delta":
            state, events = _continue_call(
                state, found, words_at(message, "tool_calls", "function", "arguments")
            )
        case "tool-call-end":
            state, events = _end_call(state, found)
        case "message-end":
            state, events = _ended(state, found)
        case _:
            events = _content(state, message, found.get("logprobs"))
            if not events and kind == "content-start":
                events = [Event(b"", alive=True)]
    return state, [*opened, *events]


def _content(state: StreamState, message: Any, logprobs: Any) -> list[Event]:
    text, thought = (
        words_at(message, "content", "text"),
        words_at(message, "content", "thinking"),
    )
    thought += words_at(message, "tool_plan")
    delta = {name: value for name, value in (("reasoning_content", thought), ("content", text)) if value}
    return [_chunk(state, delta, _logprobs(logprobs))] if delta else []


def _chunk(state: StreamState, delta: Json, logprobs: Sequence[Json] = ()) -> Event:
    return shape.chunk(state.first or {}, delta, text=message_text(delta), logprobs=logprobs)


def _begin_call(
    state: StreamState, found: Json, call: Any, chat: InferenceRequest
) -> tuple[StreamState, Sequence[Event]]:
    """Begins a call, numbered from 0; the upstream's index may start at any number."""
    index = state.called
    name, arguments = (
        words_at(call, "function", "name"),
        words_at(call, "function", "arguments"),
    )
    if not name or index >= MAX_TOOL_CALLS:
        wrong("bad_tool_calls")
    begun = {
        "index": index,
        "id": text_at(call, "id") or f"call_{chat.id}_{index}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    calls = {**state.calls, _index(found): index}
    without_arguments = state.without_arguments if arguments else state.without_arguments | {index}
    state = replace(state, calls=calls, called=index + 1, without_arguments=without_arguments)
    return state, [_chunk(state, {"tool_calls": [begun]})]


def _index(found: Json) -> int | None:
    return number(found.get("index"))


def _continue_call(state: StreamState, found: Json, arguments: str) -> tuple[StreamState, Sequence[Event]]:
    index = state.calls.get(_index(found), state.called - 1)
    if not arguments or index < 0:
        return state, ()
    delta = {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
    if index in state.without_arguments:
        state = replace(state, without_arguments=state.without_arguments - {index})
    return state, [_chunk(state, delta)]


def _end_call(state: StreamState, found: Json) -> tuple[StreamState, Sequence[Event]]:
    """Ends a call; one without arguments gets `{}`."""
    if state.calls.get(_index(found)) not in state.without_arguments:
        return state, ()
    return _continue_call(state, found, "{}")


def _ended(state: StreamState, found: Json) -> tuple[StreamState, Sequence[Event]]:
    """The finish reason, then the usage. Raises `AttemptError` if the upstream aborted the answer."""
    error, ended = text_at(found, "delta", "error"), text_at(found, "delta", "finish_reason")
    if error:
        raise AttemptError(failures.in_band(UpstreamError(message=error), 200))
    if ended.lower() in ABANDONED | BROKEN_FINISH:
        wrong("finish_error")
    first = state.first or {}
    end = shape.chunk(first, {}, finish_reason=_reason(ended, called=state.called > 0))
    return replace(state, done=True), [end, *shape.closing(first, _usage(dig(found, "delta", "usage")))]
