"""The requests that this process admitted and has not settled, and those it settled in the last minute.

A replica that becomes the primary may lack the last commits: after a reconnect the process puts back what is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from codellama_proxy.limits.admission import Settlement
from codellama_proxy.store.ledger import rows

KEEP_SECONDS = 60.0
MAX_ENDED = 50_000
MAX_WRITTEN = 2_000

Row = dict[str, Any]


class Ended(NamedTuple):
    """A settlement, without content and records, and the held row that it ended."""

    at: float
    row: Row
    end: Settlement


class RequestsInMemory:
    """Changed only after a commit. Used on the writer's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.running: dict[str, Row] = {}
        """The held row by request ID."""
        self.ended: deque[Ended] = deque(maxlen=MAX_ENDED)
        self._written: deque[str] = deque(maxlen=MAX_WRITTEN)
        """Settled by a commit whose answer was lost; their settlements are repeated."""

    def admitted(self, row: Row) -> None:
        self.running[row["request_id"]] = row

    def extended(self, request_id: str, row: Row, nanos: int) -> None:
        """`row`: the columns that the attempt changed; `nanos`: added to the hold."""
        held = self.running.get(request_id)
        if held is not None:
            self.running[request_id] = {**held, **row, "hold_nanos": held["hold_nanos"] + nanos}

    def gone(self, request_id: str, *, repeated: bool) -> None:
        """A running request that turns out to be settled; `repeated`: by this process, which repeats that."""
        self.running.pop(request_id, None)
        if repeated:
            self._written.append(request_id)  # a repetition may fail as well

    def was_written(self, request_id: str) -> bool:
        """Whether a settlement without effect only repeats an earlier one of this process."""
        return request_id in self._written or any(one.end.request_id == request_id for one in self.ended)

    def estimated(self, end: Settlement) -> Settlement | None:
        """`end` with the hold as its cost, or the estimate of its prompt without a hold; `None` if it is not held.

        Texts and figures of `end` are left out: one of them may be what cannot be stored.
        """
        row = self.running.get(end.request_id)
        if row is None:
            return None
        known = end._replace(model=row["model"], deployment=row["deployment"])
        return rows.estimated(known, row["estimate_tokens"], row["hold_nanos"] or row["estimate_nanos"])

    def settled(self, end: Settlement) -> None:
        now = self._clock()
        row = self.running.pop(end.request_id, None)
        if row is not None:
            self.ended.append(Ended(now, row, end._replace(content=None, record=None)))
        while self.ended and self.ended[0].at < now - KEEP_SECONDS:
            self.ended.popleft()
