"""An answer in progress, as the gateway and the cache see it, and its conversion to the other form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from codellama_proxy.core.snapshot import Deployment
from codellama_proxy.core.types import Event
from codellama_proxy.openai_format import folding
from codellama_proxy.openai_format.completion import MAX_EVENT_LOOP_BYTES


class Reply(Protocol):
    """An answer that has begun, wherever it comes from."""

    @property
    def deployment(self) -> Deployment: ...

    @property
    def dropped(self) -> tuple[str, ...]: ...

    @property
    def first(self) -> Sequence[Event]: ...

    @property
    def ended(self) -> bool:
        """The last batch handed out was the last there is."""

    async def more(self, seconds: float) -> Sequence[Event]:
        """Raises `AttemptError`: broken, silent for its idle timeout, or not here within `seconds`."""

    async def close(self) -> None: ...


Begin = Callable[[], Awaitable[Reply]]
"""Asks upstream for an answer."""


async def in_other_form(events: Sequence[Event], size: int, *, stream: bool) -> Sequence[Event]:
    """An answer as a stream or whole; a large one is not converted on the event loop."""
    if size <= MAX_EVENT_LOOP_BYTES:
        return converted(events, stream=stream)
    return await asyncio.to_thread(converted, events, stream=stream)


def converted(events: Sequence[Event], *, stream: bool) -> Sequence[Event]:
    """A complete answer in the other form. Raises `ValueError` and others if it is not a completion."""
    return folding.as_stream(events[0]) if stream else (folding.as_whole(events),)
