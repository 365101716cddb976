"""Records to be sent to a tracking service: durable and bounded.

A record is written in the transaction that settles its request, so a crash loses none; it is removed after delivery,
so a crash may cause a second delivery. A full outbox drops its oldest records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from codellama_proxy.store.interfaces import MAX_DELAY_SECONDS, OutboxKind, Outcome, Waiting
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

MAX_RECORDS = 10_000
MAX_BYTES = 64 << 20
SQL = queries.load("outbox", "codellama_proxy.store.sqlite")


def put(db: sqlite3.Connection, kind: OutboxKind, request_id: str, body: bytes) -> int:
    """Add a record; returns the number of older ones dropped to make room."""
    _, _, _, upto = db.execute(SQL["ends"]).fetchone()
    db.execute(SQL["put"], (kind, request_id, body, (upto or 0) + len(body)))
    dropped = 0
    while _too_full(*db.execute(SQL["ends"]).fetchone()):
        dropped += db.execute(SQL["drop_oldest"]).rowcount
    return dropped


def _too_full(first: int, before: int, last: int, upto: int) -> bool:
    """Whether the outbox is over its limits, by the positions of its ends: an upper bound without counting."""
    return last > first and (last - first >= MAX_RECORDS or upto - before > MAX_BYTES)


class Outbox:
    """`interfaces.Outbox`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self.dropped = 0
        """Number of records dropped to make room for scores and metadata."""

    async def add(self, kind: OutboxKind, request_id: str, body: bytes) -> None:
        self.dropped += await self._writer.run(lambda db: put(db, kind, request_id, body))

    async def due(self, now: float, most: int) -> list[Waiting]:
        """At most `most` records that are due, fewest tries first, then oldest."""
        await self._writer.barrier()
        values = {"now": now, "farthest": MAX_DELAY_SECONDS, "most": most}
        return [Waiting(*row) for row in await self._reader.all(SQL["due"], values)]

    async def note(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record delivery results."""
        await self._writer.run(lambda db: _note(db, outcomes, now))

    async def knows(self, request_id: str) -> bool:
        """Whether a request was delivered, or will be."""
        await self._writer.barrier()
        row = await self._reader.one(SQL["knows"], {"request_id": request_id})
        return bool(row and row[0])

    async def waiting(self) -> int:
        """The number of records in the outbox."""
        await self._writer.barrier()
        row = await self._reader.one(SQL["waiting"])
        return int(row[0]) if row else 0

    async def forget(self, before: float) -> None:
        """Delete the service's IDs of requests delivered before a time; those can no longer be scored."""
        await self._writer.run(lambda db: db.execute(SQL["forget"], (before,)).rowcount)


def _note(db: sqlite3.Connection, outcomes: Sequence[Outcome], now: float) -> None:
    for outcome in outcomes:
        record = outcome.record
        if outcome.next_at is not None:
            db.execute(SQL["later"], (outcome.next_at, record.id))
            continue
        db.execute(SQL["remove"], (record.id,))
        if outcome.service_id is not None:
            db.execute(SQL["tracked"], (record.request_id, outcome.service_id, now))
