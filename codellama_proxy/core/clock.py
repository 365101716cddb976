"""The clocks, the sleep and the dice: passed in, so that tests own them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Time:
    monotonic: Callable[[], float] = time.monotonic
    """Seconds, for durations."""
    wall: Callable[[], float] = time.time
    """Unix seconds, for dates."""
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    """A number in [0, 1)."""
