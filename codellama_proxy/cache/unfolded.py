"""What is stored of an answer: its completion, as bytes. That of a stream is made when it is first needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from codellama_proxy.cache.key import MAX_CACHED_BYTES, CachedAnswer, storable
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import completion_in

UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""Exceptions of parsing an answer. The answer is then not stored or not replayed; the request is unaffected."""


class UnfoldedAnswer:
    """A complete stream that is to be stored, before its chunks are folded to a completion."""

    __slots__ = ("_answer", "_created_at", "_deployment", "_dropped", "_events", "_expires_at", "size")

    def __init__(
        self,
        events: Sequence[Event],
        size: int,
        deployment: str,
        dropped: tuple[str, ...],
        created_at: float,
        expires_at: float,
    ) -> None:
        """`size`: of the bodies of the events, in bytes. The rest as in `CachedAnswer`."""
        self.size = size
        self._events = events
        self._deployment = deployment
        self._dropped = dropped
        self._created_at = created_at
        self._expires_at = expires_at
        self._answer: CachedAnswer | None = None

    def folded(self, troubles: Counter[str]) -> CachedAnswer | None:
        """The answer, or `None` if it must not be stored. Computed once, by whichever thread is the first.

        `troubles`: counts answers that cannot be read.
        """
        events = self._events
        if events:
            try:
                event = completion_to_keep(events, stream=True)
            except UNREADABLE:
                troubles["unreadable"] += 1
                event = None
            if event is not None:
                terms = self._deployment, self._dropped, self._created_at, self._expires_at
                self._answer = CachedAnswer(event, *terms)
            self._events = ()
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
