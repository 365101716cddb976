"""The items of an answer, each with the events that announce it, add to it and complete it.

An item may collect content before it is opened: one item is open at a time.
(platform.openai.com/docs/api-reference/responses-streaming)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Fields = dict[str, Any]
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
        self.annotations: list[Fields] = []

    def shown(self) -> Fields:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": self.annotations,
            "logprobs": self.logprobs,
        }


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
            opened += self._part_added(at)
            if part.pieces:
                opened.append(self._delta(at, "".join(part.pieces), part.logprobs))
            opened += [self._annotated(at, index) for index in range(len(part.annotations))]
            if at < len(self._parts) - 1:
                opened += self._part_done(at)
        return opened

    def place_text(self, item_id: str, text: str) -> None:
        """Makes it the first item of an answer without a stream, with this text."""
        self._place = Place(item_id, 0)
        part = _Part("output_text")
        part.pieces.append(text)
        self._parts.append(part)

    def add(self, kind: str, text: str, logprobs: Sequence[Fields] = ()) -> list[StreamEvent]:
        """Adds to the last part if it is of this kind, `output_text` or `refusal`; else begins another."""
        is_new = not self._parts or self._parts[-1].kind != kind
        begun = self._begin(kind) if is_new else []
        part = self._parts[-1]
        part.pieces.append(text)
        part.logprobs.extend(logprobs)
        return [*begun, self._delta(len(self._parts) - 1, text, logprobs)]

    def annotate(self, annotations: Sequence[Fields]) -> list[StreamEvent]:
        """Adds citations to the text; they may precede it."""
        begun = [] if self._parts else self._begin("output_text")
        part = self._parts[-1]
        if part.kind != "output_text":
            return begun
        before = len(part.annotations)
        part.annotations.extend(annotations)
        added = range(before, len(part.annotations))
        return [*begun, *[self._annotated(len(self._parts) - 1, index) for index in added]]

    def close(self) -> list[StreamEvent]:
        last = self._part_done(len(self._parts) - 1) if self._parts else []
        return [*last, self._place.done(self.shown("completed"))]

    def may_close(self) -> bool:
        return True

    def shown(self, status: str) -> Fields:
        return {**self._item(status), "content": [part.shown() for part in self._parts]}

    def _item(self, status: str) -> Fields:
        return {"type": "message", "id": self._place.id, "status": status, "role": "assistant"}

    def _begin(self, kind: str) -> list[StreamEvent]:
        """Completes the last part and announces another."""
        done = self._part_done(len(self._parts) - 1) if self._parts else []
        self._parts.append(_Part(kind))
        return [*done, *self._part_added(len(self._parts) - 1)]

    def _part_added(self, at: int) -> list[StreamEvent]:
        empty = _Part(self._parts[at].kind).shown()
        return [self._place.event("content_part.added", content_index=at, part=empty)]

    def _delta(self, at: int, text: str, logprobs: Sequence[Fields]) -> StreamEvent:
        kind = self._parts[at].kind
        more = {"logprobs": list(logprobs)} if kind == "output_text" else {}
        return self._place.event(f"{kind}.delta", content_index=at, delta=text, **more)

    def _annotated(self, at: int, index: int) -> StreamEvent:
        annotation = self._parts[at].annotations[index]
        place = {"content_index": at, "annotation_index": index}
        return self._place.event("output_text.annotation.added", **place, annotation=annotation)

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
