"""The interface of answers in progress, and the conversion between streams and plain answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import ChunkOutlet, Event, Take, decline
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES


class Reply(Protocol):
    """An answer that has begun, from any source."""

    @property
    def deployment(self) -> Deployment: ...

    @property
    def dropped(self) -> tuple[str, ...]: ...

    @property
    def first(self) -> Sequence[Event]: ...

    @property
    def ended(self) -> bool:
        """Whether the batch returned last was the last one."""

    def more(
        self, seconds: float, take: Take = decline, outlet: ChunkOutlet | None = None
    ) -> Awaitable[Sequence[Event]]:
        """The next batch that `take` does not take, or the last one. Chunks may go to `outlet` instead.

        Raises `AttemptError`: broken, silent for its idle timeout, or not here within `seconds`.
        """

    async def close(self) -> None: ...


Begin = Callable[[], Awaitable[Reply]]
"""Starts an upstream call."""


async def in_other_form(events: Sequence[Event], size: int, *, stream: bool) -> Sequence[Event]:
    """An answer converted to a stream or to a plain answer; large ones in a thread."""
    if size <= MAX_EVENT_LOOP_BYTES:
        return converted(events, stream=stream)
    return await asyncio.to_thread(converted, events, stream=stream)


def converted(events: Sequence[Event], *, stream: bool) -> Sequence[Event]:
    """A complete answer in the other form. Raises `ValueError` and others if it is invalid."""
    return folding.as_stream(events[0]) if stream else (folding.as_whole(events),)
