"""The items of an answer, each with the events that announce it, add to it and complete it.

An item may collect content before it is opened: one item is open at a time.
(platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from codellama_proxy.inbound.responses.calls import CALL_FORMS, Fields, arguments_object
from codellama_proxy.inbound.responses.tools import ToolName

MAX_ATTEMPTS = 16
"""Times that a call's arguments are parsed to find out whether they are complete."""

StreamEvent = tuple[str, Fields]
"""A type without `response.`, and the fields besides `type` and `sequence_number`."""
Seal = Callable[[Mapping[str, Any]], str]
"""Seals reasoning for the next turn."""


class Item(Protocol):
    """One item. `at` is what identifies it in events, once it is open."""

    @property
    def prefix(self) -> str | None:
        """Of its id; `None` while it is not known what it is."""

    def open(self, item_id: str, index: int) -> list[StreamEvent]:
        """Announces it, with what it has collected."""

    def close(self) -> list[StreamEvent]:
        """Completes it."""

    def may_close(self) -> bool:
        """Whether nothing more will be added to it, as far as can be seen, once another item has begun."""

    def shown(self, status: str) -> Fields:
        """As it stands in `output`."""


class Place(NamedTuple):
    """Of an item in the answer."""

    id: str
    output_index: int

    def event(self, kind: str, **fields: Any) -> StreamEvent:
        return kind, {"item_id": self.id, "output_index": self.output_index, **fields}

    def added(self, item: Fields) -> StreamEvent:
        return "output_item.added", {"output_index": self.output_index, "item": item}

    def done(self, item: Fields) -> StreamEvent:
        return "output_item.done", {"output_index": self.output_index, "item": item}


UNPLACED = Place("", -1)


class Reasoning:
    """Reasoning, shown as a summary. `seal` is set if the client keeps it for the next turn."""

    prefix = "rs"

    def __init__(self, seal: Seal | None) -> None:
        self._seal = seal
        self._place = UNPLACED
        self._pieces: list[str] = []
        self._blocks: list[Mapping[str, str]] = []
        self._sealed: str | None = None

    def open(self, item_id: str, index: int) -> list[StreamEvent]:
        self._place = Place(item_id, index)
        opened = [self._place.added({"type": "reasoning", "id": item_id, "summary": []})]
        if self._pieces:
            opened += [self._part("added", ""), self._delta("".join(self._pieces))]
        return opened

    def add_text(self, text: str) -> list[StreamEvent]:
        self._pieces.append(text)
        return [*([self._part("added", "")] if len(self._pieces) == 1 else []), self._delta(text)]

    def add_block(self, block: Mapping[str, str]) -> list[StreamEvent]:
        """Keeps a signed block for the next turn; it is not shown."""
        self._blocks.append(block)
        return []

    def close(self) -> list[StreamEvent]:
        text = "".join(self._pieces)
        if self._seal is not None:
            self._sealed = self._seal({"reasoning": text, "thinking_blocks": self._blocks})
        closed: list[StreamEvent] = []
        if self._pieces:
            done = self._place.event("reasoning_summary_text.done", summary_index=0, text=text)
            closed += [done, self._part("done", text)]
        return [*closed, self._place.done(self.shown("completed"))]

    def may_close(self) -> bool:
        return True

    def shown(self, status: str) -> Fields:
        del status
        text = "".join(self._pieces)
        summary = [{"type": "summary_text", "text": text}] if self._pieces else []
        item = {"type": "reasoning", "id": self._place.id, "summary": summary}
        return item if self._sealed is None else {**item, "encrypted_content": self._sealed}

    def _part(self, what: str, text: str) -> StreamEvent:
        part = {"type": "summary_text", "text": text}
        return self._place.event(f"reasoning_summary_part.{what}", summary_index=0, part=part)

    def _delta(self, text: str) -> StreamEvent:
        return self._place.event("reasoning_summary_text.delta", summary_index=0, delta=text)


class _Part:
    """One part of a message: text or a refusal."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.logprobs: list[Fields] = []

    def shown(self) -> Fields:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}


class Message:
    """Text and refusals."""

    prefix = "msg"

    def __init__(self) -> None:
        self._place = UNPLACED
        self._parts: list[_Part] = []

    def open(self, item_id: str, index: int) -> list[StreamEvent]:
        self._place = Place(item_id, index)
        empty = {**self._item("in_progress"), "content": []}
        opened = [self._place.added(empty)]
        for at, part in enumerate(self._parts):
            opened += [*self._part_added(at), self._delta(at, "".join(part.pieces), part.logprobs)]
            if at < len(self._parts) - 1:
                opened += self._part_done(at)
        return opened

    def add(self, kind: str, text: str, logprobs: Sequence[Fields] = ()) -> list[StreamEvent]:
        """Adds to the last part if it is of this kind, `output_text` or `refusal`; else begins another."""
        begun: list[StreamEvent] = []
        if not self._parts or self._parts[-1].kind != kind:
            if self._parts:
                begun += self._part_done(len(self._parts) - 1)
            self._parts.append(_Part(kind))
            begun += self._part_added(len(self._parts) - 1)
        part = self._parts[-1]
        part.pieces.append(text)
        part.logprobs.extend(logprobs)
        return [*begun, self._delta(len(self._parts) - 1, text, logprobs)]

    def close(self) -> list[StreamEvent]:
        last = self._part_done(len(self._parts) - 1) if self._parts else []
        return [*last, self._place.done(self.shown("completed"))]

    def may_close(self) -> bool:
        return True

    def shown(self, status: str) -> Fields:
        return {**self._item(status), "content": [part.shown() for part in self._parts]}

    def _item(self, status: str) -> Fields:
        return {"type": "message", "id": self._place.id, "status": status, "role": "assistant"}

    def _part_added(self, at: int) -> list[StreamEvent]:
        empty = _Part(self._parts[at].kind).shown()
        return [self._place.event("content_part.added", content_index=at, part=empty)]

    def _delta(self, at: int, text: str, logprobs: Sequence[Fields]) -> StreamEvent:
        kind = self._parts[at].kind
        more = {"logprobs": list(logprobs)} if kind == "output_text" else {}
        return self._place.event(f"{kind}.delta", content_index=at, delta=text, **more)

    def _part_done(self, at: int) -> list[StreamEvent]:
        part = self._parts[at]
        shown = part.shown()
        if part.kind == "refusal":
            done = self._place.event("refusal.done", content_index=at, refusal=shown["refusal"])
        else:
            done = self._place.event(
                "output_text.done", content_index=at, text=shown["text"], logprobs=part.logprobs
            )
        return [done, self._place.event("content_part.done", content_index=at, part=shown)]


class Call:
    """A call of one of the client's tools."""

    def __init__(self, call_id: str, tool_of: Callable[[str], ToolName]) -> None:
        self._call_id = call_id
        self._tool_of = tool_of
        self._place = UNPLACED
        self._tool: ToolName | None = None
        self._pieces: list[str] = []
        self._attempts = 0

    @property
    def prefix(self) -> str | None:
        return CALL_FORMS[self._tool.kind].id_prefix if self._tool is not None else None

    def set_name(self, name: str) -> None:
        """Sets the name of the function; later ones are ignored."""
        if self._tool is None:
            self._tool = self._tool_of(name)

    def open(self, item_id: str, index: int) -> list[StreamEvent]:
        self._place = Place(item_id, index)
        opened = [self._place.added(self._item("in_progress", ""))]
        return [*opened, *self._delta("".join(self._pieces))]

    def add(self, arguments: str) -> list[StreamEvent]:
        self._pieces.append(arguments)
        return self._delta(arguments)

    def close(self) -> list[StreamEvent]:
        shown = self.shown("completed")
        closed: list[StreamEvent] = []
        if shown["type"] == "function_call":
            if not "".join(self._pieces):
                closed += self._delta(shown["arguments"])
            done = {"name": shown["name"], "arguments": shown["arguments"]}
            closed.append(self._place.event("function_call_arguments.done", **done))
        elif shown["type"] == "custom_tool_call":
            if shown["input"]:
                closed.append(self._place.event("custom_tool_call_input.delta", delta=shown["input"]))
            closed.append(self._place.event("custom_tool_call_input.done", input=shown["input"]))
        return [*closed, self._place.done(shown)]

    def may_close(self) -> bool:
        """Whether the arguments are complete. After `MAX_ATTEMPTS`, only the end of the answer decides."""
        if not self._pieces or not self._pieces[-1].rstrip().endswith("}") or self._attempts >= MAX_ATTEMPTS:
            return False
        self._attempts += 1
        return self.is_whole()

    def is_whole(self) -> bool:
        """Whether the arguments are a JSON object."""
        return arguments_object("".join(self._pieces)) is not None

    def shown(self, status: str) -> Fields:
        arguments = "".join(self._pieces)
        return self._item(status, "{}" if status == "completed" and not arguments.strip() else arguments)

    def _item(self, status: str, arguments: str) -> Fields:
        assert self._tool is not None
        form = CALL_FORMS[self._tool.kind]
        head = {"type": form.type, "id": self._place.id, "call_id": self._call_id, "status": status}
        return {**head, **form.fields(self._tool, arguments)}

    def _delta(self, arguments: str) -> list[StreamEvent]:
        if not arguments or self._tool is None or self._tool.kind != "function":
            return []
        return [self._place.event("function_call_arguments.delta", delta=arguments)]
