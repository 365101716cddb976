"""Puts the pieces of a chat's answer into items, of which one is open at a time.

Pieces for an item that is not open yet wait: some providers mix the arguments of parallel calls. An item is closed when
another has begun and the open one is complete, or at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from codellama_proxy.inbound.responses.calls import Call
from codellama_proxy.inbound.responses.output import Item, Message, Reasoning, Seal, StreamEvent
from codellama_proxy.inbound.responses.tools import ToolName
from codellama_proxy.openai_format.completion import text_alone

SIGNED_FIELDS = ("type", "thinking", "signature", "data")
"""Of Claude's thinking blocks."""
PLAIN = frozenset({"role", "content"})
"""The fields of a message that has only text."""
FUNCTION_CALL = -1
"""The index of a call in the deprecated `function_call`, which has none."""

Some = TypeVar("Some", bound=Item)
Json = Mapping[str, Any]


class Assembly:
    """The items of one answer. `suffix` makes their ids; `names` finds the client's names of its tools."""

    def __init__(self, suffix: str, names: Callable[[], Mapping[str, ToolName]], seal: Seal | None) -> None:
        self._suffix = suffix
        self._find_names = names
        self._names: Mapping[str, ToolName] | None = None
        self._seal = seal
        self._items: list[Item] = []
        self._calls: dict[int, tuple[int, Call]] = {}
        """By the provider's index; first their place in `_items`."""
        self._call_ids: set[str] = set()
        self._next = 0
        """The first item that is not closed."""
        self._is_open = False
        """Whether that one is open."""
        self._output: list[Item] = []
        """Items that were opened."""
        self._statuses: list[str] = []

    def add_text_alone(self, message: object, logprobs: object) -> bool:
        """Adds a whole message that has only text, as most have, without its events; `False` if it has more."""
        text = text_alone(message)
        if not text or logprobs is not None or self._items:
            return False
        item = Message()
        item.place_text(f"{Message.prefix}_{self._suffix}_0", text)
        self._output.append(item)
        self._statuses.append("completed")
        return True

    def add(self, message: Json, logprobs: object = None) -> list[StreamEvent]:
        """The events for a delta, or for a whole message."""
        if logprobs is None and PLAIN.issuperset(message):  # most deltas
            text = _content_text(message.get("content"))
            return self._put(self._last(Message), lambda item: item.add("output_text", text)) if text else []
        written: list[StreamEvent] = []
        if text := _string(message, "reasoning_content") or _string(message, "reasoning"):
            written += self._put(self._last(Reasoning), lambda item: item.add_text(text))
        for block in _thinking_blocks(message) if self._seal is not None else ():
            written += self._put(self._last(Reasoning), partial(Reasoning.add_block, block=block))
        if content := _content_text(message.get("content")):
            tokens = _logprobs(logprobs)
            written += self._put(self._last(Message), lambda item: item.add("output_text", content, tokens))
        if (cited := _annotations(message)) and not (self._items and isinstance(self._items[-1], Call)):
            written += self._put(self._last(Message), lambda item: item.annotate(cited))
        if refusal := _string(message, "refusal"):
            written += self._put(self._last(Message), lambda item: item.add("refusal", refusal))
        for index, call in _calls(message):
            written += self._add_call(index, call)
        return written

    def end(self, *, cut: bool) -> list[StreamEvent]:
        """Closes all items. `cut`: the answer did not end by itself, so the last call may be half of one.

        Clients execute a call when it is completed, so half of one is not.
        """
        written: list[StreamEvent] = []
        while self._next < len(self._items):
            item = self._items[self._next]
            written += self._open()
            if self._is_open and not (cut and isinstance(item, Call) and not item.is_whole()):
                written += self._close()
            else:
                self._advance()
        return written

    def shown(self) -> list[dict[str, Any]]:
        """The items that were opened, as the answer's `output`."""
        return [item.shown(status) for item, status in zip(self._output, self._statuses, strict=True)]

    # --- one item after another ----------------------------------------------------------------------------------

    def _put(self, item: Some, add: Callable[[Some], list[StreamEvent]]) -> list[StreamEvent]:
        """Adds to an item; the events of one that is not open follow when it is opened."""
        written = self._catch_up()
        added = add(item)
        is_shown = self._is_open and self._items[self._next] is item
        return [*written, *added] if is_shown else written

    def _catch_up(self) -> list[StreamEvent]:
        written = self._open()
        while self._is_open and self._next < len(self._items) - 1 and self._items[self._next].may_close():
            written += self._close()
            written += self._open()
        return written

    def _open(self) -> list[StreamEvent]:
        item = self._items[self._next]
        if self._is_open or item.prefix is None:
            return []
        index = len(self._output)
        self._output.append(item)
        self._statuses.append("incomplete")
        self._is_open = True
        return item.open(f"{item.prefix}_{self._suffix}_{index}", index)

    def _close(self) -> list[StreamEvent]:
        closed = self._items[self._next].close()
        self._statuses[-1] = "completed"
        self._advance()
        return closed

    def _advance(self) -> None:
        self._next += 1
        self._is_open = False

    # --- which item ----------------------------------------------------------------------------------------------

    def _last(self, kind: type[Some]) -> Some:
        """The last item if it is of this kind, else a new one."""
        if self._next < len(self._items) and isinstance(last := self._items[-1], kind):
            return last
        made: Any = Reasoning(self._seal) if kind is Reasoning else Message()
        self._items.append(made)
        found: Some = made
        return found

    def _add_call(self, index: int, given: Json) -> list[StreamEvent]:
        if index not in self._calls:
            self._calls[index] = len(self._items), Call(self._call_id(given), self._tool)
            self._items.append(self._calls[index][1])
        place, call = self._calls[index]
        if place < self._next:
            return []
        function = given.get("function")
        if not isinstance(function, Mapping):
            return self._catch_up()
        if name := _string(function, "name"):
            call.set_name(name)
        arguments = _string(function, "arguments")
        return self._put(call, lambda item: item.add(arguments) if arguments else [])

    def _call_id(self, given: Json) -> str:
        """The provider's id of a call if it is unique in the answer, as clients require, else another."""
        made = f"call_{self._suffix}_{len(self._calls)}"
        found = _string(given, "id") or made
        if found in self._call_ids:
            found = made
        self._call_ids.add(found)
        return found

    def _tool(self, wire: str) -> ToolName:
        if self._names is None:
            self._names = self._find_names()
        return self._names.get(wire) or ToolName("function", wire)


def _string(found: Json, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _content_text(content: object) -> str:
    """The text of a message's content, a string or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join([_string(part, "text") for part in content if isinstance(part, Mapping)])


def _thinking_blocks(message: Json) -> Iterator[dict[str, str]]:
    blocks = message.get("thinking_blocks")
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, Mapping):
            yield {name: block[name] for name in SIGNED_FIELDS if isinstance(block.get(name), str)}


def _annotations(message: Json) -> list[dict[str, Any]]:
    """The citations of a message, which chats nest by their type."""
    annotations = message.get("annotations")
    return [
        {"type": "url_citation", **citation}
        for annotation in (annotations if isinstance(annotations, list) else ())
        if isinstance(annotation, Mapping) and isinstance(citation := annotation.get("url_citation"), Mapping)
    ]


def _calls(message: Json) -> Iterator[tuple[int, Json]]:
    calls = message.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, Mapping):
            index = call.get("index")
            yield (index if type(index) is int else place), call
    if isinstance(function := message.get("function_call"), Mapping):
        yield FUNCTION_CALL, {"function": function}


def _logprobs(found: object) -> list[dict[str, Any]]:
    """The tokens of a choice's `logprobs`, which are alike in both APIs."""
    tokens = found.get("content") if isinstance(found, Mapping) else None
    return (
        [_token(token) for token in tokens if isinstance(token, Mapping)] if isinstance(tokens, list) else []
    )


def _token(token: Json) -> dict[str, Any]:
    top = token.get("top_logprobs")
    alternatives = (
        [_likelihood(one) for one in top if isinstance(one, Mapping)] if isinstance(top, list) else []
    )
    return {**_likelihood(token), "top_logprobs": alternatives}


def _likelihood(token: Json) -> dict[str, Any]:
    logprob, data = token.get("logprob"), token.get("bytes")
    is_bytes = isinstance(data, list) and all(type(one) is int for one in data)
    return {
        "token": _string(token, "token"),
        "logprob": logprob if isinstance(logprob, int | float) else 0,
        "bytes": data if is_bytes else [],
    }
