"""Removes ledger rows past their retention; their cost stays in the daily totals."""

from __future__ import annotations

import logging
from collections.abc import Callable

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import Outbox, Upkeep

INTERVAL_SECONDS = 600.0

log = logging.getLogger(__name__)


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
