"""A real ledger on a PostgreSQL server, with the interface of `ledger_fixtures.Store`.

The database's clock is faked at the database: a function that is found before the real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any
from urllib.parse import quote

from codellama_proxy.limits.admission import Admission, AdmissionRequest
from codellama_proxy.store.location import ServerAddress, database_location
from codellama_proxy.store.postgres.connections import Connections
from codellama_proxy.store.postgres.engine import PostgresEngine
from codellama_proxy.store.postgres.ledger import Ledger
from codellama_proxy.store.postgres.migrations import migrate
from codellama_proxy.store.postgres.session import PostgresSession, connect
from codellama_proxy.store.postgres.workers import Identity
from codellama_proxy.store.write_queue import WriteQueue
from tests.support.ledger_fixtures import NOW
from tests.support.postgres import Databases

_CLOCK = """
create schema fake;
create table fake.clock (at double precision not null);
insert into fake.clock (at) values (0);
create function fake.clock_timestamp() returns timestamptz language sql volatile as
    'select to_timestamp(at) from fake.clock';
"""
_TEMPLATES: dict[int, str] = {}


def prepared_database(databases: Databases) -> ServerAddress:
    """A new database with all tables and a clock that stands still."""
    template = _TEMPLATES.get(id(databases))
    if template is None:
        address = address_of(databases.empty())
        with closing(connect(address)) as db:
            migrate(db, address)
            db.script(_CLOCK)
            template = _TEMPLATES[id(databases)] = db.native("select current_database()").fetchone()[0]
    path = quote("-csearch_path=public,fake,pg_catalog")
    return address_of(f"{databases.copy_of(template)}&options={path}")


def address_of(text: str) -> ServerAddress:
    address = database_location(text)
    assert isinstance(address, ServerAddress)
    return address


class PostgresStore:
    """One database; `open` it as often as processes would serve on it."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self.engine = PostgresEngine(address, Identity())
        self.writer: WriteQueue[PostgresSession] = WriteQueue(self.engine, "test")
        self.now = NOW

    @property
    def now(self) -> float:
        return self.known_now

    @now.setter
    def now(self, at: float) -> None:
        self.known_now = at
        with closing(connect(self.address)) as db:
            db.native("update fake.clock set at = %s", (at,))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Ledger]:
        self.engine = PostgresEngine(self.address, Identity(), wall=lambda: NOW)
        self.writer = WriteQueue(self.engine, "test")
        self.writer.start()
        connections = Connections(self.address)
        ledger = ClockedLedger(self, self.writer, connections)
        try:
            yield ledger
        finally:
            ledger.close()
            await connections.close()
            await asyncio.to_thread(self.writer.close)

    def run(self, use: Callable[[Ledger], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with self.open() as ledger:
                return await use(ledger)

        return asyncio.run(main())

    def value(self, sql: str, *values: Any) -> Any:
        """One committed value."""
        row = self.row(sql, *values)
        return row and row[0]

    def row(self, sql: str, *values: Any) -> Any:
        with closing(connect(self.address)) as db:
            return db.execute(sql, values).fetchone()

    def execute(self, sql: str) -> None:
        with closing(connect(self.address)) as db:
            db.execute(sql)

    def balance(self, scope: str) -> tuple[int, int]:
        return self.row("select spent_nanos, held_nanos from scopes where scope = ?", scope) or (0, 0)

    def level(self, scope: str, kind: str = "rpm") -> float | None:
        row = self.row("select rpm_level, tpm_level from scopes where scope = ?", scope)
        return None if row is None else row[0 if kind == "rpm" else 1]


class ClockedLedger(Ledger):
    """Requests say when they come: the database's clock shows that while one is admitted."""

    def __init__(
        self, store: PostgresStore, queue: WriteQueue[PostgresSession], connections: Connections
    ) -> None:
        super().__init__(queue, connections)
        self._store = store

    async def admit(self, ask: AdmissionRequest) -> Admission:
        now = self._store.known_now
        if ask.created_at == now:
            return await super().admit(ask)
        self._store.now = ask.created_at
        try:
            return await super().admit(ask)
        finally:
            self._store.now = now
