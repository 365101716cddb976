"""What is stored of an answer: its completion as bytes, made when it is first needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer, CacheScope, storable
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import completion_in

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Exceptions of parsing an answer. The answer is then not stored or not replayed; the request is unaffected."""


class ReadyAnswer(NamedTuple):
    """An answer to be stored, whose completion is made."""

    key: bytes
    answer: CachedAnswer
    scope: CacheScope
    model: str
    most: int
    """How many answers may be stored."""


@dataclass(slots=True, eq=False)
class PendingAnswer:
    """An answer to be stored, whose completion is made when it is first needed: by the cache's thread, or for a hit."""

    key: bytes
    scope: CacheScope
    model: str
    most: int
    """How many answers may be stored."""
    deployment: str
    """This and the following as in `CachedAnswer`."""
    dropped: tuple[str, ...]
    created_at: float
    expires_at: float
    events: Sequence[Event]
    """The answer as it came; empty once the completion is made."""
    size: int
    """Of the bodies of its events, in bytes."""
    stream: bool
    """Whether it came as a stream."""
    _answer: CachedAnswer | None = None

    def answer(self, troubles: Counter[str]) -> CachedAnswer | None:
        """The answer, or `None` if it must not be stored. Made once, by whichever thread is the first.

        `troubles`: counts answers that cannot be read.
        """
        events = self.events
        if events:
            try:
                event = completion_to_keep(events, stream=self.stream)
            except UNREADABLE:
                troubles["unreadable"] += 1
                event = None
            if event is not None:
                terms = self.deployment, self.dropped, self.created_at, self.expires_at
                self._answer = CachedAnswer(event, *terms)
            self.events = ()
        return self._answer


def completion_to_keep(events: Sequence[Event], *, stream: bool) -> Event | None:
    """The completion to store; `None` if it must not be stored. Raises `UNREADABLE` for an invalid answer."""
    if sum([len(event.text) if stream else len(event.body) for event in events]) > MAX_CACHED_BYTES:
        return None
    event = folding.as_whole(events) if stream else events[0]
    if len(event.body) > MAX_CACHED_BYTES or not storable(completion_in(event)):
        return None
    # As bytes only: without `completion`.
    return Event(event.body, event.content, event.text, event.usage, event.finish_reason, event.model)
