"""Plain text completions in OpenAI's dialect: pure functions on values.

Answers are relayed as the bytes that came where they are OpenAI's. Mistral answers as if to a chat, Together
calls its objects by other names: clients see `text_completion` and `choices[].text` from everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy import failures
from codellama_proxy.chat import ChatRequest
from codellama_proxy.failures import AttemptFailed
from codellama_proxy.providers.openai_answer import fill, fix_finish, in_band, loads, name_of
from codellama_proxy.providers.openai_stream import StreamState, closing, constant
from codellama_proxy.providers.reading import object_in, text_at
from codellama_proxy.providers.text_request import to_request
from codellama_proxy.sse import DONE, Frame
from codellama_proxy.types import Deployment, Event
from codellama_proxy.usage import reported_in, usage_in

__all__ = ["parse_response", "parse_stream", "to_request"]

KIND = "text_completion"


def parse_response(body: bytes, chat: ChatRequest, deployment: Deployment) -> Event:
    """A whole completion as one event. Raises `AttemptFailed` when a 200 is not an answer."""
    found = loads(body)
    if found.get("error"):
        raise AttemptFailed(in_band(body, found))
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices:
        raise AttemptFailed(failures.disguised("no_choices", status=200))
    changed = fill(found, KIND, chat)
    texts: list[str] = []
    for place, choice in enumerate(choices):
        text, fixed = _text(choice, place)
        if not isinstance(choice.get("text"), str):
            raise AttemptFailed(failures.disguised("no_text", status=200))
        changed |= fix_finish(choice, text, {}) or fixed
        texts.append(text)
    return Event(
        body=orjson.dumps(found) if changed else body,
        content=True,
        text="".join(texts),
        usage=usage_in(found),
        finish_reason=choices[0].get("finish_reason"),
        model=name_of(found),
    )


def _text(choice: Any, place: int) -> tuple[str, bool]:
    """What a choice says, in whichever field, moved to `text`; whether anything had to be changed."""
    if not isinstance(choice, dict):
        raise AttemptFailed(failures.disguised("no_choices", status=200))
    changed = False
    if not isinstance(choice.get("index"), int):
        choice["index"] = place
        changed = True
    for name in ("message", "delta"):
        if name in choice:
            other = choice.pop(name)
            if not isinstance(choice.get("text"), str):
                choice["text"] = text_at(other, "content")
            changed = True
    return text_at(choice, "text"), changed


def parse_stream(
    state: StreamState | None, frame: Frame, chat: ChatRequest, deployment: Deployment
) -> tuple[StreamState, Sequence[Event]]:
    """One frame's events and the state for the next. Raises `AttemptFailed` for an error event."""
    state = state or StreamState()
    if frame.data == DONE:
        return state._replace(done=True), closing(state, KIND)
    chunk = object_in(frame.data)
    if chunk is None:
        return state, ()
    if chunk.get("error"):
        raise AttemptFailed(in_band(frame.data, chunk))
    events: list[Event] = []
    told, usage = reported_in(chunk), usage_in(chunk)
    if isinstance(chunk.get("choices"), list) and chunk["choices"]:
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
    changed = chunk.pop("usage", chunk) is not chunk
    state, fixed = constant(state, chunk, chat, KIND)
    changed |= fixed
    said = ""
    reason = None
    for place, choice in enumerate(chunk["choices"]):
        state, text, fixed = _choice(state, choice, place)
        changed |= fixed
        said += text
        reason = choice.get("finish_reason") or reason
    body = orjson.dumps(chunk) if changed else raw
    return state, Event(body, bool(said) or reason is not None, said, None, reason, state.model)


def _choice(state: StreamState, choice: Any, place: int) -> tuple[StreamState, str, bool]:
    """The state after one choice of a chunk, what it said, and whether it had to be changed."""
    text, changed = _text(choice, place)
    if not isinstance(choice.get("text"), str):
        choice["text"] = ""
        changed = True
    index = choice["index"]
    if choice.get("finish_reason") is not None:
        changed |= fix_finish(choice, text or ("open" if index in state.open else ""), _NO_CALLS)
        state = state._replace(open=state.open - {index}, finished=True)
    elif text and index not in state.open:
        state = state._replace(open=state.open | {index})
    return state, text, changed


_NO_CALLS: Mapping[str, Any] = {}
