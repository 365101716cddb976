"""Clocks, sleep and random numbers, passed in so that tests control them; and timestamps as text."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import Any, NamedTuple


class Time(NamedTuple):
    monotonic: Callable[[], float] = time.monotonic
    """Seconds, for durations."""
    wall: Callable[[], float] = time.time
    """Unix seconds, for dates."""
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    """A number in [0, 1)."""


def iso(at: float) -> str:
    """Unix seconds as `2026-11-22T10:00:00Z`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_ms(milliseconds: float) -> str:
    """`0.4 ms`, `12 ms`, `1387 ms`: one decimal where whole numbers say little."""
    return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"


def nearest(value: float, parts: int) -> float:
    """The value in `parts` of one: 10 is one decimal, 100 two. As `round`, at a third of its time."""
    return floor(value * parts + 0.5) / parts


def iso_ms(at: float) -> str:
    """Unix seconds as `2026-11-22T10:00:00.000Z`."""
    seconds, milliseconds = divmod(round(at * 1_000_000) // 1000, 1000)
    return f"{_whole_seconds(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=16)
def _whole_seconds(at: int) -> str:
    """The same for all lines of a second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")
