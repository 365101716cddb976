"""Pure work on large values, kept off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

LARGE_BODY_BYTES = 256 * 1024
"""From this size on, processing a body would block the event loop for too long."""


async def off_loop(size: int, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call `function`, in a thread if `size` (bytes of the body it processes) is large; returns its result."""
    if size < LARGE_BODY_BYTES:
        return function(*args)
    return await asyncio.to_thread(function, *args)
