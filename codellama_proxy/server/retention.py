"""Forgets single requests past their retention; what they cost stays, in daily totals."""

from __future__ import annotations

import logging
from collections.abc import Callable

from codellama_proxy.core.clock import Time
from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.sqlite.connection import StoreUnavailableError
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.outbox import Outbox

EVERY = 600.0
"""Seconds between two looks: rows go in many small steps rather than in a few large ones."""

log = logging.getLogger(__name__)


async def keep_only(ledger: Ledger, outbox: Outbox, retention: Callable[[], float], time: Time) -> None:
    """For ever. `retention` is asked every time: it may change."""
    while True:
        before = time.wall() - retention()
        try:
            folded = await ledger.fold(before)
            await outbox.forget(before)
        except (StoreUnavailableError, ProxyError):
            pass  # the store itself says what is wrong with it; there is a next time
        else:
            if folded:
                log.info("%d requests past their retention are now in the daily totals only", folded)
        await time.sleep(EVERY)
