"""Records on their way to a tracking service: durable, in order of need, and never more than fit.

A record is written in the transaction that settles its request, so no crash loses one; whoever delivers it
removes it afterwards, so a crash may deliver one twice. When the box is full the oldest goes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from codellama_proxy.store.interfaces import MAX_DELAY_SECONDS, OutboxKind, Outcome, Waiting
from codellama_proxy.store.sqlite import queries
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

MOST_RECORDS = 10_000
MOST_BYTES = 64 << 20
SQL = queries.load("outbox")


def put(db: sqlite3.Connection, kind: OutboxKind, request_id: str, body: bytes) -> int:
    """Add a record; how many older ones had to go for it."""
    _, _, _, upto = db.execute(SQL["ends"]).fetchone()
    db.execute(SQL["put"], (kind, request_id, body, (upto or 0) + len(body)))
    dropped = 0
    while _too_full(*db.execute(SQL["ends"]).fetchone()):
        dropped += db.execute(SQL["drop_oldest"]).rowcount
    return dropped


def _too_full(first: int, before: int, last: int, upto: int) -> bool:
    """By the distance of its ends: never less than what is in it, and known without counting."""
    return last > first and (last - first >= MOST_RECORDS or upto - before > MOST_BYTES)


class Outbox:
    """The box as its sender and `/feedback` see it."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self.dropped = 0
        """Records that went because scores came."""

    async def add(self, kind: OutboxKind, request_id: str, body: bytes) -> None:
        self.dropped += await self._writer.run(lambda db: put(db, kind, request_id, body))

    async def due(self, now: float, most: int) -> list[Waiting]:
        """What may be sent now, the least tried and the oldest first."""
        await self._writer.barrier()
        values = {"now": now, "farthest": MAX_DELAY_SECONDS, "most": most}
        return [Waiting(*row) for row in await self._reader.all(SQL["due"], values)]

    async def note(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Write down what became of records."""
        await self._writer.run(lambda db: _note(db, outcomes, now))

    async def knows(self, request_id: str) -> bool:
        """Whether a request was delivered, or will be."""
        await self._writer.barrier()
        row = await self._reader.one(SQL["knows"], {"request_id": request_id})
        return bool(row and row[0])

    async def waiting(self) -> int:
        """How many records wait."""
        await self._writer.barrier()
        row = await self._reader.one(SQL["waiting"])
        return int(row[0]) if row else 0

    async def forget(self, before: float) -> None:
        """Requests tracked before a time cannot be scored any more."""
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
