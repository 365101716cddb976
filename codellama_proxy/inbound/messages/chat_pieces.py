"""What OpenAI's messages, deltas and chunks say, whatever their provider's spelling. Never raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from codellama_proxy.core import sse
from codellama_proxy.core.types import Event


class Piece(NamedTuple):
    """A piece of content: text of a kind, a signed block, or a part of a call."""

    kind: str
    """`text`, `thinking`, `refusal`, `block` or `call`."""
    text: str = ""
    """Of a call: a piece of its arguments."""
    block: Mapping[str, Any] = {}
    """A thinking block, or a call's `id` and `name`."""
    call: int = 0
    """The call's index."""


def chunks_of(event: Event) -> Iterator[Mapping[str, Any]]:
    """The chunks in an event; a run's as one, with all its text."""
    if not event.body:
        return
    bodies = event.body.split(sse.BETWEEN)
    if len(bodies) > 1 and (first := _with_text(orjson.loads(bodies[0]), event.text)):
        yield first
        return
    for body in bodies:
        yield orjson.loads(body)


def _with_text(chunk: Mapping[str, Any], text: str) -> Mapping[str, Any] | None:
    """The chunk with another text, if text is all it has."""
    choices = chunk.get("choices")
    if not text or not isinstance(choices, list) or len(choices) != 1:
        return None
    delta = choices[0].get("delta") or {}
    names = [name for name in delta if name != "role" and delta[name]]
    if len(names) != 1 or names[0] not in ("content", "reasoning_content", "reasoning"):
        return None
    return {**chunk, "choices": [{**choices[0], "delta": {names[0]: text}}]}


def choice_of(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; the only one, as this API has no `n`."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return {}


def pieces_of(message: object) -> Iterator[Piece]:
    """The content of a message or a delta: reasoning, signed blocks, text, refusal, calls."""
    if not isinstance(message, dict):
        return
    if len(message) == 1 and "content" in message:  # most chunks
        yield from _content(message["content"])
        return
    blocks = message.get("thinking_blocks")
    signed = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    whole = "".join(block["thinking"] for block in signed if isinstance(block.get("thinking"), str))
    if isinstance(reasoning, str) and reasoning and reasoning != whole:
        yield Piece("thinking", reasoning)
    for block in signed:
        yield Piece("block", block=block)
    yield from _content(message.get("content"))
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        yield Piece("refusal", refusal)
    calls = message.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            yield _call(call, position)


def _content(content: object) -> Iterator[Piece]:
    if isinstance(content, str):
        if content:
            yield Piece("text", content)
        return
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "thinking":  # Mistral's form
            for piece in _content(part.get("thinking")):
                yield piece._replace(kind="thinking")
        elif isinstance(text := part.get("text"), str) and text:
            yield Piece("text", text)


def _call(call: Mapping[str, Any], position: int) -> Piece:
    index = call.get("index", position)
    function = call.get("function")
    found = function if isinstance(function, dict) else {}
    name, arguments = found.get("name"), found.get("arguments")
    begun = {"id": call.get("id"), "name": name} if isinstance(name, str) and name else {}
    text = arguments if isinstance(arguments, str) else ""
    return Piece("call", text, begun, index if isinstance(index, int) else position)
