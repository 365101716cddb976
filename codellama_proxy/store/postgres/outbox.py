"""Records to be sent to a tracking service, for any number of processes: a claim is a lease.

A record is written in the transaction that settles its request, so a crash loses none; it is removed after delivery,
so a crash may cause a second delivery. A full outbox drops its oldest records.
"""

from __future__ import annotations

from collections.abc import Sequence

from codellama_proxy.store.interfaces import MAX_DELAY_SECONDS, OutboxKind, Outcome, Waiting
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.session import PostgresSession
from codellama_proxy.store.sql.queries import load

MAX_RECORDS = 10_000
MAX_BYTES = 64 << 20
LEASE_SECONDS = 60.0
"""How long a record belongs to the process that claimed it."""
SQL = load("outbox", "codellama_proxy.store.postgres")
PUT_REQUESTS = """
insert into outbox (kind, request_id, body)
select 'request', name, record from unnest(%s::text[], %s::bytea[]) as records (name, record)
"""


class Outbox:
    """`interfaces.Outbox`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.dropped = 0
        """Records are dropped by the ledger's upkeep only, which counts them."""

    async def add(self, kind: OutboxKind, request_id: str, body: bytes) -> None:
        await self._connections.change(lambda db: db.native(SQL["put"], (kind, request_id, body)).rowcount)

    async def due(self, now: float, most: int) -> list[Waiting]:
        values = {"now": now, "lease": LEASE_SECONDS, "farthest": MAX_DELAY_SECONDS, "most": most}
        rows = await self._connections.run(lambda db: db.native(SQL["claim"], values).fetchall())
        return sorted((Waiting(*row) for row in rows), key=lambda record: (record.tries, record.id))

    async def note(self, outcomes: Sequence[Outcome], now: float) -> None:
        await self._connections.change(lambda db: _note(db, outcomes, now))

    async def knows(self, request_id: str) -> bool:
        values = {"request_id": request_id}
        row = await self._connections.run(lambda db: db.native(SQL["knows"], values).fetchone())
        return bool(row[0])

    async def forget(self, before: float) -> None:
        await self._connections.run(lambda db: db.native(SQL["forget"], (before,)).rowcount)


def trim(db: PostgresSession, records: int = MAX_RECORDS, size: int = MAX_BYTES) -> int:
    """Drop the oldest records if the outbox is over its limits; returns their number."""
    return db.native(SQL["drop_oldest"], {"records": records, "bytes": size}).rowcount


def _note(db: PostgresSession, outcomes: Sequence[Outcome], now: float) -> None:
    for record, next_at, service_id in outcomes:
        if next_at is not None:
            db.native(SQL["later"], (next_at, record.id))
            continue
        db.native(SQL["remove"], (record.id,))
        if service_id is not None:
            db.native(SQL["tracked"], (record.request_id, service_id, now))
