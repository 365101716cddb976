"""The content of an answer, collected from its events for tracking: plain answers and streams alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codellama_proxy.core.types import Event
from codellama_proxy.openai_format.folding import chunks_of, fold

MAX_CONTENT_BYTES = 1 << 20
"""Maximum size of a recorded prompt, and of the recorded part of an answer."""


class Transcript:
    """Collects events; folds them only when `choices` is called."""

    __slots__ = ("_choices", "_events", "_size", "cut")

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._size = 0
        self._choices: list[dict[str, Any]] | None = None
        self.cut = False
        """Whether events beyond `MAX_CONTENT_BYTES` were left out."""

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            self._size += len(event.body)
            if self._size > MAX_CONTENT_BYTES:
                self.cut = True
                return
            if event.body:
                self._events.append(event)

    def choices(self) -> list[dict[str, Any]]:
        """The choices as a chat completion has them, `{index, message, finish_reason, ...}`, by index. Read-only.

        Called once the answer is over: all callers get the same list.
        """
        if self._choices is None:
            completion = fold(chunks_of(self._events))
            self._choices = [_as_chat(choice) for choice in completion["choices"]]
        return self._choices


def _as_chat(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice without its nulls; the text of a text completion becomes a message."""
    message = {"role": "assistant", "content": choice["text"]} if "text" in choice else choice["message"]
    rest = {name: value for name, value in choice.items() if value is not None and name != "text"}
    return {**rest, "message": message, "finish_reason": choice["finish_reason"]}
