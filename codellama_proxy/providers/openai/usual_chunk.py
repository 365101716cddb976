"""Parses the chunks that need no repair, as OpenAI itself writes them: nearly all of a stream.

`stream.parse_frame` gives the same for them, and takes four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codellama_proxy.core.sse import Frame
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.completion import CHAT_CHUNK, is_usage
from codellama_proxy.openai_format.usage import usage_in
from codellama_proxy.providers.common.json_documents import UnreadableError, loads
from codellama_proxy.providers.common.json_reading import model_of
from codellama_proxy.providers.openai.stream_state import NEW_CHOICE, ChoiceState, StreamState

MAX_USUAL_BYTES = 16 << 10
"""Larger chunks are rare, and parsed with limits."""

_CHUNK = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"}
)
_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs"})
_DELTA = frozenset({"role", "content", "refusal"})


def usual_chunk(state: StreamState, frame: Frame) -> tuple[StreamState, Sequence[Event]] | None:
    """The next state, and the event: of a piece of the only choice, or of the usage. `None` for any other frame."""
    data = frame.data
    if frame.event or not data.startswith(b"{") or len(data) > MAX_USUAL_BYTES or b"\n" in data:
        return None
    try:
        chunk = loads(data)
    except UnreadableError:
        return None
    choices, usage = chunk.get("choices"), chunk.get("usage")
    if not _CHUNK.issuperset(chunk):
        return None
    if usage is not None:
        return _report(state, chunk) if choices == [] and is_usage(usage) else None
    if "usage" in chunk:  # a null can be cut out: inside a JSON string the quotes are escaped
        data = data.replace(b',"usage":null', b"").replace(b', "usage": null', b"")
        if b'"usage"' in data:
            return None
    if not _is_named(state, chunk):
        return None
    if type(choices) is not list or len(choices) != 1 or not _is_usual(choices[0]):
        return None
    return _piece(state, chunk, choices[0], data)


def _report(state: StreamState, chunk: dict[str, Any]) -> tuple[StreamState, Sequence[Event]] | None:
    """Of a chunk with usage and no choices."""
    if chunk.get("object") != CHAT_CHUNK or not chunk["usage"]:
        return None
    event = Event(b"", usage=usage_in(chunk), model=model_of(chunk))
    return state._replace(usage=chunk["usage"]), (event,)


def _is_named(state: StreamState, chunk: dict[str, Any]) -> bool:
    """Whether the fields around the choices are there, and the same as in the first chunk."""
    own, created = chunk.get("id"), chunk.get("created")
    if type(own) is not str or not own or type(created) is not int or chunk.get("object") != CHAT_CHUNK:
        return False
    if not model_of(chunk):
        return False
    return state.id is None or (own == state.id and created == state.created)


def _is_usual(choice: Any) -> bool:
    if type(choice) is not dict or not _CHOICE.issuperset(choice) or choice.get("logprobs") is not None:
        return False
    index, delta = choice.get("index"), choice.get("delta")
    if type(index) is not int or index or choice.get("finish_reason") not in (None, "stop", "length"):
        return False
    if type(delta) is not dict or not _DELTA.issuperset(delta):
        return False
    if delta.get("role", "assistant") != "assistant" or delta.get("refusal") is not None:
        return False
    content = delta.get("content")
    return content is None or type(content) is str


def _piece(
    state: StreamState, chunk: dict[str, Any], choice: dict[str, Any], data: bytes
) -> tuple[StreamState, Sequence[Event]] | None:
    delta, reason = choice["delta"], choice.get("finish_reason")
    text = delta.get("content") or ""
    before = state.choices.get(0, NEW_CHOICE)
    named = "role" in delta
    if (named and before.named) or before.calls.begun or before.calls.held:
        return None
    is_open = reason is None and (before.open or bool(text))
    now = ChoiceState(before.named or named, is_open, before.calls, before.by_deltas or bool(text))
    if state.id is None or reason is not None or now != before:
        state = StreamState(
            chunk["id"],
            chunk["created"],
            model_of(chunk) if state.id is None else state.model,
            state.choices if now == before else {**state.choices, 0: now},
            state.finished + (reason is not None),
            state.wanted,
            state.usage,
            state.done,
        )
    return state, (Event(data, bool(text) or reason is not None, text, None, reason, state.model),)
