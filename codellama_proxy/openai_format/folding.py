"""Chunks to a completion, and back: the one place where streams and plain answers turn into each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.sse import BETWEEN
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.completion import (
    CHAT_CHUNK,
    CHAT_COMPLETION,
    TEXT_COMPLETION,
    completion_in,
    event_of,
    message_text,
)
from codellama_proxy.openai_format.runs import END_OF_LINE, Around, around, says
from codellama_proxy.openai_format.usage import merged, usage_in
from codellama_proxy.openai_format.usual_stream import usual_completion

_ONCE = frozenset({"role", "id", "type", "index"})
"""Strings that come whole, not in pieces."""


def fold(chunks: Iterable[Json]) -> dict[str, Any]:
    """The completion that the chunks of one stream add up to, fields unknown to OpenAI included.

    A whole completion among them is taken as one chunk. Linear in the size of the chunks.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if value is not None or name not in whole:
                whole[name] = value
        for place, choice in enumerate(chunk.get("choices") or ()):
            index = choice.get("index")
            if type(index) is not int:
                index = place
            begun = choices.get(index)
            if begun is None:
                begun = choices[index] = {"index": index}
                _add_choice(begun, choice)
            elif not _append_content(begun, choice):
                _add_choice(begun, choice)
    kind = TEXT_COMPLETION if whole.get("object") == TEXT_COMPLETION else CHAT_COMPLETION
    for choice in choices.values():
        _finish_choice(choice, kind)
    return {**whole, "object": kind, "choices": [choices[index] for index in sorted(choices)]}


def _slot(part: Json, otherwise: int) -> int:
    index = part.get("index")
    return index if type(index) is int else otherwise


def _append_content(begun: dict[str, Any], choice: Json) -> bool:
    """The fast path: appends a chunk that only carries more content. Returns `False` for any other chunk."""
    delta = choice.get("delta") or {}
    content = begun.get("message", _NOTHING).get("content")
    more = delta.get("content")
    plain = len(delta) == 1 and len(choice) == 3 and "index" in choice
    plain = plain and choice.get("finish_reason", "") is None
    if not plain or type(content) is not _StringPieces or type(more) is not str:
        return False
    content.append(more)
    return True


_NOTHING: Json = {}


def _add_choice(choice: dict[str, Any], chunk: Json) -> None:
    for name, value in chunk.items():
        if name in ("delta", "message"):
            _add(choice.setdefault("message", {}), value or {}, is_message=True)
        elif name in ("logprobs", "text"):
            _add(choice, {name: value})
        elif value is not None or name not in choice:
            choice[name] = value


class _StringPieces(list[str]):
    """A string of which more may come; joined once, at the end."""


class _OwnList(list[Any]):
    """A list that this module made, and may therefore extend."""


def _add(whole: dict[str, Any], delta: Json, *, is_message: bool = False) -> None:
    """Adds a delta: strings and lists are appended, objects merged, a message's tool calls matched by `index`.

    A field whose type changes is replaced: only fields that no client reads do that.
    """
    for name, value in delta.items():
        if value is None:
            whole.setdefault(name, None)
        elif is_message and name == "tool_calls" and isinstance(value, list):
            calls = _of_kind(dict, whole, name)
            for place, call in enumerate(value):
                _add(calls.setdefault(_slot(call, place), {}), call)
        elif isinstance(value, Mapping):
            _add(_of_kind(dict, whole, name), value)
        elif isinstance(value, str) and name not in _ONCE:
            _of_kind(_StringPieces, whole, name).append(value)
        elif isinstance(value, list):
            _of_kind(_OwnList, whole, name).extend(value)
        else:
            whole[name] = value


def _of_kind(kind: type[Any], whole: dict[str, Any], name: str) -> Any:
    found = whole.get(name)
    if type(found) is not kind:
        found = whole[name] = kind()
    return found


def _joined(value: Any) -> Any:
    if isinstance(value, _StringPieces):
        return "".join(value)
    if isinstance(value, _OwnList):
        return list(value)
    return {name: _joined(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _finish_choice(choice: dict[str, Any], kind: str) -> None:
    """Turns the state of a choice into the choice of a completion."""
    for name in ("logprobs", "text"):
        if name in choice:
            choice[name] = _joined(choice[name])
    choice.setdefault("finish_reason", None)
    if kind == TEXT_COMPLETION:
        choice["text"] = choice.get("text") or ""
    else:
        choice["message"] = _finish_message(choice.get("message") or {})


def _finish_message(message: dict[str, Any]) -> dict[str, Any]:
    """Turns the state of a message into a message: tool calls are a list, missing content is null."""
    calls = message.pop("tool_calls", None)
    message = {"role": "assistant", **_joined(message)}
    if calls:
        message["tool_calls"] = [_finish_call(_joined(calls[index])) for index in sorted(calls)]
    if not message.get("content") and (calls or message.get("function_call") or "content" not in message):
        message["content"] = None
    return message


def _finish_call(call: dict[str, Any]) -> dict[str, Any]:
    call.pop("index", None)
    if isinstance(call.get("function"), dict):
        call["function"].setdefault("arguments", "")
    return call


def split(completion: Json) -> list[Event]:
    """The completion as the events of a stream; `fold` of their chunks is the completion again."""
    return _split(completion, usage_in(completion) if completion.get("usage") else None)


def _split(completion: Json, usage: Usage | None) -> list[Event]:
    """`usage`: that of the usage chunk, if the completion has one."""
    common = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    chunks_of = _text_chunks_of if completion.get("object") == TEXT_COMPLETION else _chunks_of
    if chunks_of is _chunks_of:
        common["object"] = CHAT_CHUNK
    events = [event for choice in completion["choices"] for event in chunks_of(common, choice)]
    reported = completion.get("usage")
    if reported:
        last = orjson.dumps({**common, "choices": [], "usage": reported})
        events.append(Event(last, usage=usage, usage_only=True))
    return events


def _chunks_of(common: Json, choice: Json) -> Iterator[Event]:
    """Three chunks for a choice: the role, the content, the finish reason."""
    message = choice["message"]
    content = {name: value for name, value in message.items() if name != "role" and value}
    if calls := content.get("tool_calls"):
        content["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    empty = {name: value for name, value in message.items() if name not in content}
    sent = ("message", "logprobs") if content else ("message",)
    rest = {name: value for name, value in choice.items() if name not in sent}
    start, index = orjson.dumps({**common, "choices": []})[: -len(b"]}")], choice["index"]

    def chunk(delta: Json, more: Json) -> bytes:
        shown = {"index": index, "delta": delta, "finish_reason": None, **more}
        return b"".join((start, orjson.dumps(shown), b"]}"))

    yield Event(chunk(empty, {}), model=common.get("model"))
    if content:
        logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
        yield Event(chunk(content, logprobs), True, message_text(message))
    yield Event(chunk({}, rest), finish_reason=choice.get("finish_reason"))


def _text_chunks_of(common: Json, choice: Json) -> Iterator[Event]:
    body = orjson.dumps({**common, "choices": [choice]})
    yield Event(body, True, choice["text"], None, choice.get("finish_reason"), common.get("model"))


def as_stream(whole: Event) -> list[Event]:
    """The event of a plain answer as the events of a stream. Raises `KeyError` or `TypeError` for no completion."""
    completion, usage = completion_in(whole), whole.usage
    events = split(completion) if usage is None else _split(completion, usage)
    if usage is not None and not events[-1].usage_only:
        events.append(Event(b"", usage=usage))
    return events


def chunks_of(events: Iterable[Event]) -> Iterator[Json]:
    """The chunks in the bodies of a stream's events.

    Those of a run, or of consecutive events that differ in their text only, become one chunk with all of their text.
    """
    alike: list[Event] = []
    place: Around | None = None
    for event in events:
        body, text = event.body, event.text
        if not body:
            continue
        if place is not None and text and says(body, text, place):
            alike.append(event)
            continue
        yield from _merged(alike, place)
        alike = [event]
        place = around(text, body) if text and END_OF_LINE not in body else None
    yield from _merged(alike, place)


def _merged(events: Sequence[Event], place: Around | None) -> Sequence[Json]:
    """One chunk for events that differ in their text only, if they only add to one string.

    `place`: where the text of the first event is; `None` if that is a run, or has its text several times.
    """
    if not events:
        return []
    body = events[0].body
    end = body.find(END_OF_LINE)
    if end < 0 and len(events) == 1:
        return [completion_in(events[0])]
    chunk: dict[str, Any] = orjson.loads(b"".join(place) if place else body[:end])
    holder, name = _only_string(chunk)
    if name and not (place and holder[name]):
        holder[name] = "".join([event.text for event in events])
        return [chunk]
    bodies = [body for event in events for body in event.body.split(BETWEEN)]
    return [orjson.loads(body) for body in bodies]


def _only_string(chunk: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The object and the name of the string that a chunk adds to; an empty name if it does anything else."""
    choices: Sequence[dict[str, Any]] = chunk.get("choices") or ()
    if len(choices) != 1 or "text" in choices[0] or choices[0].get("logprobs"):
        return chunk, ""
    holder: dict[str, Any] = choices[0].get("delta") or {}
    calls = holder.get("tool_calls")
    if len(holder) == 1 and type(calls) is list and len(calls) == 1:
        call = calls[0]
        holder = (type(call) is dict and call.keys() == _CALL_PIECE and call["function"]) or {}
    if len(holder) != 1:
        return chunk, ""
    ((name, value),) = holder.items()
    return (holder, name) if isinstance(value, str) and name not in _ONCE else (chunk, "")


_CALL_PIECE = {"index", "function"}
"""The fields of a tool call in a chunk that adds to its arguments."""


def as_whole(events: Sequence[Event]) -> Event:
    """The events of a stream as the event of a plain answer. Raises `ValueError` if they are no answer."""
    completion = usual_completion(events) or fold(chunks_of(events))
    usage: Usage | None = None
    for event in events:
        if event.usage is not None:
            usage = merged(usage, event.usage)
    return event_of(completion, orjson.dumps(completion), usage)
