"""Answers in OpenAI's shape, as we make them ourselves rather than relay them: pure functions on JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from codellama_proxy.core.snapshot import Json
from codellama_proxy.core.types import Event, Usage
from codellama_proxy.openai_format.usage import merged, usage_in

AT_ONCE = 128 << 10
"""Bytes of an answer that are taken apart or put together on the event loop: more is left to a thread."""


def usage_json(usage: Usage, *, estimated: bool) -> dict[str, Any]:
    """OpenAI's `usage` object; `estimated` marks one that we counted."""
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if estimated:
        shown["estimated"] = True
    return shown


def with_estimate(event: Event, usage: Usage) -> Event:
    """A whole completion that came without usage, completed by our count."""
    completion = orjson.loads(event.body)
    shown = usage_json(usage, estimated=True)
    if "choices" not in completion:  # embeddings complete nothing
        del shown["completion_tokens"]
    completion["usage"] = shown
    return event._replace(body=orjson.dumps(completion))


def estimated_chunk(earlier: Event, usage: Usage) -> Event:
    """The last chunk of a stream whose upstream reported no usage, made after an `earlier` one."""
    chunk = orjson.loads(earlier.body)
    shown = usage_json(usage, estimated=True)
    return usage_chunk(chunk["id"], chunk["created"], chunk.get("model"), shown, chunk["object"])


def usage_chunk(
    answer_id: str,
    created: int,
    model: str | None,
    usage: Mapping[str, Any],
    kind: str = "chat.completion.chunk",
) -> Event:
    """The last chunk of a stream, for clients that set `stream_options.include_usage`."""
    chunk = {
        "id": answer_id,
        "object": kind,
        "created": created,
        "model": model or "",
        "choices": [],
        "usage": usage,
    }
    return Event(orjson.dumps(chunk), usage_only=True)


# --- chunks to a completion and back -------------------------------------------------------------------------

_ONCE = frozenset({"role", "id", "type", "index"})
"""Strings that are said, not spoken piece by piece."""
TEXT = "text_completion"


def fold(chunks: Iterable[Json]) -> dict[str, Any]:
    """The completion that the chunks of one stream add up to, whatever they carry beside what is known.

    Takes time in proportion to their size.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if value is not None or name not in whole:
                whole[name] = value
        for place, choice in enumerate(chunk.get("choices") or ()):
            index = _place(choice, place)
            begun = choices.get(index)
            if begun is None:
                begun = choices[index] = {"index": index}
            if not _goes_on(begun, choice):
                _add_choice(begun, choice)
    kind = TEXT if whole.get("object") == TEXT else "chat.completion"
    for choice in choices.values():
        _close(choice, kind)
    return {**whole, "object": kind, "choices": [choices[index] for index in sorted(choices)]}


def _place(part: Json, otherwise: int) -> int:
    index = part.get("index")
    return index if type(index) is int else otherwise


def _goes_on(begun: dict[str, Any], choice: Json) -> bool:
    """Takes in a chunk that only says a bit more, as nearly all do; `False` for any other."""
    delta = choice.get("delta") or {}
    said = begun.get("message", _NOTHING).get("content")
    more = delta.get("content")
    plain = len(delta) == 1 and len(choice) == 3 and "index" in choice
    plain = plain and choice.get("finish_reason", "") is None
    if not plain or type(said) is not _Pieces or type(more) is not str:
        return False
    said.append(more)
    return True


_NOTHING: Json = {}


def _add_choice(choice: dict[str, Any], chunk: Json) -> None:
    for name, value in chunk.items():
        if name == "delta":
            _add(choice.setdefault("message", {}), value or {})
        elif name in ("logprobs", "text"):
            _add(choice, {name: value})
        elif value is not None or name not in choice:
            choice[name] = value


class _Pieces(list[str]):
    """A string still being said: joined once, at the end."""


class _Items(list[Any]):
    """A list still being told, which is nobody else's."""


def _add(whole: dict[str, Any], delta: Json) -> None:
    """Strings and lists grow, objects take in, calls find their place by `index`.

    A field that changes its kind begins anew: only fields that no client reads do.
    """
    for name, value in delta.items():
        if value is None:
            whole.setdefault(name, None)
        elif name == "tool_calls" and isinstance(value, list):
            calls = _of_kind(dict, whole, name)
            for place, call in enumerate(value):
                _add(calls.setdefault(_place(call, place), {}), call)
        elif isinstance(value, Mapping):
            _add(_of_kind(dict, whole, name), value)
        elif isinstance(value, str) and name not in _ONCE:
            _of_kind(_Pieces, whole, name).append(value)
        elif isinstance(value, list):
            _of_kind(_Items, whole, name).extend(value)
        else:
            whole[name] = value


def _of_kind(kind: type[Any], whole: dict[str, Any], name: str) -> Any:
    found = whole.get(name)
    if type(found) is not kind:
        found = whole[name] = kind()
    return found


def _joined(value: Any) -> Any:
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, _Items):
        return list(value)
    return {name: _joined(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _close(choice: dict[str, Any], kind: str) -> None:
    """A choice as a whole answer has it."""
    for name in ("logprobs", "text"):
        if name in choice:
            choice[name] = _joined(choice[name])
    choice.setdefault("finish_reason", None)
    if kind == TEXT:
        choice["text"] = choice.get("text") or ""
    else:
        choice["message"] = _tidy(choice.get("message") or {})


def _tidy(message: dict[str, Any]) -> dict[str, Any]:
    """As a whole message has it: calls are a list, and what was never said is null."""
    calls = message.pop("tool_calls", None)
    message = {"role": "assistant", **_joined(message)}
    if calls:
        places = (_joined(calls[index]) for index in sorted(calls))
        message["tool_calls"] = [{n: v for n, v in call.items() if n != "index"} for call in places]
    if not message.get("content") and (calls or message.get("function_call") or "content" not in message):
        message["content"] = None
    return message


def split(completion: Json) -> list[Event]:
    """The stream that says what the completion says: `fold` of its chunks is the completion again."""
    common = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    chunks_of = _text_chunks_of if completion.get("object") == TEXT else _chunks_of
    if chunks_of is _chunks_of:
        common["object"] = "chat.completion.chunk"
    events = [event for choice in completion["choices"] for event in chunks_of(common, choice)]
    usage = completion.get("usage")
    if usage:
        last = orjson.dumps({**common, "choices": [], "usage": usage})
        events.append(Event(last, usage=usage_in(completion), usage_only=True))
    return events


def _chunks_of(common: Json, choice: Json) -> Iterator[Event]:
    """Who speaks, what is said, why it ended."""
    message = choice["message"]
    spoken = {name: value for name, value in message.items() if name != "role" and value}
    if calls := spoken.get("tool_calls"):
        spoken["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    silent = {name: value for name, value in message.items() if name not in spoken}
    told = ("message", "logprobs") if spoken else ("message",)
    rest = {name: value for name, value in choice.items() if name not in told}

    def chunk(delta: Json, **more: Any) -> bytes:
        shown = {"index": choice["index"], "delta": delta, "finish_reason": None, **more}
        return orjson.dumps({**common, "choices": [shown]})

    yield Event(chunk(silent), model=common.get("model"))
    if spoken:
        logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
        yield Event(chunk(spoken, **logprobs), content=True, text=said(message))
    yield Event(chunk({}, **rest), finish_reason=choice.get("finish_reason"))


def _text_chunks_of(common: Json, choice: Json) -> Iterator[Event]:
    body = orjson.dumps({**common, "choices": [choice]})
    yield Event(body, True, choice["text"], None, choice.get("finish_reason"), common.get("model"))


def as_stream(whole: Event) -> list[Event]:
    """A whole answer as the events of a stream. Raises what is raised for a body that is no completion."""
    events = split(orjson.loads(whole.body))
    if whole.usage is not None and not events[-1].usage_only:
        events.append(Event(b""))
    if whole.usage is not None:
        events[-1] = events[-1]._replace(usage=whole.usage)
    return events


def as_whole(events: Sequence[Event]) -> Event:
    """The whole answer that a stream's events add up to. Raises `ValueError` when they are none."""
    completion = fold([orjson.loads(event.body) for event in events if event.body])
    whole = event_of(completion, orjson.dumps(completion))
    told: Usage | None = None
    for event in events:
        if event.usage is not None:
            told = merged(told, event.usage)
    return whole._replace(usage=told) if told is not None else whole


def said(message: Json) -> str:
    """Everything a message says, for counting."""
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    calls.append(message.get("function_call") or {})
    words = [message.get("reasoning_content") or message.get("reasoning")]
    words += [message.get("content"), message.get("refusal")]
    words += [call.get(name) for call in calls for name in ("name", "arguments")]
    return "".join(word for word in words if isinstance(word, str))


def whole_event(body: bytes) -> Event:
    """A completion's bytes as the event of a plain answer. Raises `ValueError` when it is not one."""
    return event_of(orjson.loads(body), body)


def event_of(completion: Any, body: bytes) -> Event:
    """The same, parsed already."""
    try:
        choices = completion["choices"]
        text = "".join(
            [choice["text"] if "text" in choice else said(choice["message"]) for choice in choices]
        )
        return Event(
            body,
            content=True,
            text=text,
            usage=usage_in(completion),
            finish_reason=choices[0]["finish_reason"],
            model=completion.get("model"),
        )
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("not a completion") from error
