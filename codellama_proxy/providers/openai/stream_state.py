"""The state of a stream in OpenAI's dialect: what parsing its next frame depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from codellama_proxy.providers.common.json_reading import wrong
from codellama_proxy.providers.common.tool_calls import Calls
from codellama_proxy.providers.openai.response import MAX_CHOICES


class ChoiceState(NamedTuple):
    """The state of one choice."""

    named: bool = False
    """Its role was sent; it is sent once."""
    open: bool = False
    """It has content and no finish reason yet."""
    calls: Calls = Calls()
    by_deltas: bool = False
    """Its content comes in deltas: a message after them repeats it."""


NEW_CHOICE = ChoiceState()
_NONE: Mapping[int, ChoiceState] = {}


class StreamState(NamedTuple):
    """What parsing the next frame depends on."""

    id: str | None = None
    created: int = 0
    model: str | None = None
    """Before the first chunk: for chunks that name none."""
    choices: Mapping[int, ChoiceState] = _NONE
    finished: int = 0
    """Number of finish reasons received."""
    wanted: int = 1
    """The number of requested choices."""
    usage: Mapping[str, Any] | None = None
    """The latest usage object: some providers send a running total with every chunk."""
    done: bool = False

    @property
    def complete(self) -> bool:
        """Whether every choice is finished, or `[DONE]` was received."""
        whole = self.finished >= self.wanted
        return self.done or (whole and not any(one.open for one in self.choices.values()))

    def with_choices(self, changed: Mapping[int, ChoiceState], finished: int) -> StreamState:
        """The state after a chunk. Raises `AttemptError` for more choices than `MAX_CHOICES`."""
        if not changed and finished == self.finished:
            return self
        choices = {**self.choices, **changed}
        if len(choices) > MAX_CHOICES:
            wrong("too_many_choices")
        return self._replace(choices=choices, finished=finished)
