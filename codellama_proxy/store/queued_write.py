"""One write in a `WriteQueue`, and how its result gets to the caller."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from codellama_proxy.store.errors import StoreUnavailableError

T = TypeVar("T")
Connection = TypeVar("Connection")
Write = Callable[[Connection], T]
"""A function on the engine's connection."""


class QueuedWrite:
    """One queued function and its future. `inside`: whether it runs in the transaction."""

    __slots__ = ("error", "fn", "future", "inside", "keep", "loop", "result")

    def __init__(
        self,
        fn: Write[Any, Any],
        future: asyncio.Future[Any] | concurrent.futures.Future[Any] | None,
        loop: asyncio.AbstractEventLoop | None,
        keep: bool,
        inside: bool,
    ) -> None:
        self.fn = fn
        self.future = future
        self.loop = loop
        self.keep = keep
        self.inside = inside
        self.result: Any = None
        self.error: BaseException | None = None


def fail(items: Iterable[QueuedWrite], why: str) -> None:
    failed = list(items)
    for item in failed:
        item.error = StoreUnavailableError(why)
    deliver(failed)


def deliver(items: Iterable[QueuedWrite]) -> None:
    """Resolve futures, waking each event loop only once, because a wake-up is a system call."""
    loops: dict[asyncio.AbstractEventLoop, list[QueuedWrite]] = {}
    for item in items:
        if item.loop is None:
            _resolve(item)
        else:
            loops.setdefault(item.loop, []).append(item)
    for loop, group in loops.items():
        try:
            loop.call_soon_threadsafe(_resolve_all, group)
        except RuntimeError:  # the loop is closed
            continue


def _resolve_all(items: Iterable[QueuedWrite]) -> None:
    for item in items:
        _resolve(item)


def _resolve(item: QueuedWrite) -> None:
    future = item.future
    if future is None or future.done():  # no caller, or the caller was cancelled
        return
    if item.error is None:
        future.set_result(item.result)
    else:
        future.set_exception(item.error)
