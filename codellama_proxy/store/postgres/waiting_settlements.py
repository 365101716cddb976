"""Settlements that wait a few milliseconds, so that the next request of the same client does not wait for them.

A settlement is most of a transaction's work for the server. An admission may pass those that wait if they can only give
its scopes more room: a running request less, and a cost within its hold. If it does not find room without them, they
are written first. Used on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging

from codellama_proxy.limits.admission import AdmissionRequest, Settlement
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.postgres.operations import Settle, as_write
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.write_queue import WriteQueue

WAIT_SECONDS = 0.01
"""How long a settlement waits at most."""
MAX_WAITING = 8
"""Settlements, all of which are queued as soon as there are so many."""
BUSY_WRITES = 4
"""Writes that are not committed, from which on nothing waits: under load a transaction serves many requests."""
IN_ORDER_SECONDS = 1.0
"""How long nothing passes after an admission found no room."""

log = logging.getLogger(__name__)


class WaitingSettlements:
    """Those that are not queued yet."""

    def __init__(self, queue: WriteQueue[PostgresSession], wait: float = WAIT_SECONDS) -> None:
        """`wait`: seconds that a settlement waits at most."""
        self._queue = queue
        self._wait = wait
        self._waiting: list[Settlement] = []
        self._holds: dict[str, int] = {}
        """Of running requests with a budget, in nano-USD."""
        self._timer: asyncio.TimerHandle | None = None
        self._in_order_until = 0.0
        self._closed = False

    def held(self, request_id: str, nanos: int) -> None:
        """Note what was held for a request, or held in addition."""
        if nanos:
            self._holds[request_id] = self._holds.get(request_id, 0) + nanos

    def add(self, settlement: Settlement) -> None:
        """Have it written soon; at once if it cost more than was held."""
        self._waiting.append(settlement)
        hold = self._holds.pop(settlement.request_id, None)
        over_hold = hold is not None and (settlement.cost_nanos or 0) > hold
        busy = len(self._waiting) >= MAX_WAITING or self._queue.pending >= BUSY_WRITES
        if busy or over_hold or self._closed:
            self.post()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(self._wait, self._write)
            except RuntimeError:  # no event loop in this thread
                self.post()

    def let_pass(self, ask: AdmissionRequest) -> bool:
        """Whether the admission may pass some; if not, they are queued, and it is to be queued after them."""
        if not self._waiting:
            return False
        if asyncio.get_running_loop().time() < self._in_order_until or not _only_gains(ask):
            self.post()
            return False
        return True

    def found_no_room(self) -> None:
        """An admission passed some and could not be decided without them."""
        self._in_order_until = asyncio.get_running_loop().time() + IN_ORDER_SECONDS
        self.post()

    def post(self) -> None:
        """Queue all of them, for the next transaction."""
        waiting, self._waiting = self._waiting, []
        for settlement in waiting:
            try:
                self._queue.post(as_write(Settle(settlement)))
            except StoreUnavailableError:
                # Already closed: the row stays held, and another process settles it.
                log.error("request %s ended after the ledger was closed", settlement.request_id)

    def close(self) -> None:
        """Nothing waits from now on."""
        self._closed = True
        self.post()

    def _write(self) -> None:
        self._timer = None
        if self._waiting:
            self.post()
            self._queue.wake()


def _only_gains(ask: AdmissionRequest) -> bool:
    """Whether settlements can only give the request more room; those of token rates may use more than was taken."""
    limits = [scope.limits for scope in ask.scopes]
    return ask.counts and all(one.tpm_limit is None and not one.shadow for one in limits)
