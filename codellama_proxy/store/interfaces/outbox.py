"""Records to be sent to a tracking service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

MAX_DELAY_SECONDS = 3600.0
"""Maximum delay of an outbox record's next attempt."""
OutboxKind = Literal["request", "score", "metadata"]


class Waiting(NamedTuple):
    """An outbox record that is due."""

    id: int
    kind: OutboxKind
    request_id: str
    body: bytes
    tries: int
    service_id: int | None
    """The service's ID of the request; `None` before its delivery."""


class Outcome(NamedTuple):
    """The result of sending a record: to be retried at `next_at`, or done (delivered or given up)."""

    record: Waiting
    next_at: float | None = None
    service_id: int | None = None


class Outbox(Protocol):
    """Records to be sent to a tracking service: durable, bounded, delivered at least once."""

    @property
    def dropped(self) -> int:
        """Number of records removed to make room for newer ones."""

    async def add(self, kind: OutboxKind, request_id: str, body: bytes) -> None: ...

    async def due(self, now: float, most: int) -> list[Waiting]:
        """At most `most` records that are due, fewest tries first, then oldest."""

    async def note(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record the results of sending."""

    async def knows(self, request_id: str) -> bool:
        """Whether the request was delivered or waits for delivery."""

    async def forget(self, before: float) -> None:
        """Delete the service's IDs of requests delivered before a time."""
