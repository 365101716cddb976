"""Maintains the database: adds requests to the sums that reports read, and removes rows past their retention.

The cost of removed rows stays in the daily totals.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import Outbox, UiSessions, Upkeep, Workers
from codellama_proxy.web.ui.sessions import MAX_SESSION_SECONDS

INTERVAL_SECONDS = 600.0
ROLL_UP_SECONDS = 15.0
"""Pause between two roll-ups: reports read the rows of this time one by one."""
PURGE_SECONDS = 0.2
"""Pause between two looks, in memory, for purges of the response cache."""

log = logging.getLogger(__name__)


async def run_session_cleanup(sessions: UiSessions, idle: Callable[[], float], time: Time) -> None:
    """Runs until cancelled: deletes the dashboard's sessions that ended. `idle` returns seconds, and may change."""
    while True:
        now = time.wall()
        with suppress(StoreUnavailableError):  # the store logs its own errors; the next run tries again
            await sessions.forget(seen_before=now - idle(), created_before=now - MAX_SESSION_SECONDS)
        await time.sleep(INTERVAL_SECONDS)


async def run_retention(upkeep: Upkeep, outbox: Outbox, retention: Callable[[], float], time: Time) -> None:
    """Runs until cancelled. `retention` returns seconds; it is called each time, because it may change."""
    while True:
        before = time.wall() - retention()
        try:
            folded = await upkeep.fold(before)
            await outbox.forget(before)
        except (StoreUnavailableError, ProxyError):
            pass  # the store logs its own errors; the next run tries again
        else:
            if folded:
                log.info("%d requests past their retention are now in the daily totals only", folded)
        await time.sleep(INTERVAL_SECONDS)


async def run_cache_purges(
    workers: Workers, purge: Callable[[str | None, str | None], Awaitable[None]], time: Time
) -> None:
    """Runs until cancelled: purges the response cache of this process when an operator has asked for that."""
    while True:
        for project, model in workers.cache_purges():
            await purge(project, model)
        await time.sleep(PURGE_SECONDS)


async def run_roll_up(upkeep: Upkeep, time: Time) -> None:
    """Runs until cancelled. The first run on a database of an older version reads all rows, in small batches."""
    while True:
        with suppress(StoreUnavailableError):  # the store logs its own errors; the next run tries again
            await upkeep.roll_up()
        await time.sleep(ROLL_UP_SECONDS)
