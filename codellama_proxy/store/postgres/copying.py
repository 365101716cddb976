"""A database on a server that is copied to or from another database. No process serves on it meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.housekeeping import make_partition
from codellama_proxy.store.postgres.migrations import is_current, migrate
from codellama_proxy.store.postgres.session import PostgresSession, as_store_error, connect
from codellama_proxy.store.postgres.workers import settle_all
from codellama_proxy.store.sql.copying import REQUESTS, Row

ALIVE_SECONDS = 15
MAX_PARTITIONS = 1000
_SERVING = """
select name from workers where beat_at > extract(epoch from clock_timestamp())::float8 - %s limit 1
"""
_HOLDING = "select distinct worker from held"
_SEQUENCES = """
select setval('requests_seq', (select coalesce(max(seq), 0) + 1 from settled), false),
       setval(pg_get_serial_sequence('audit', 'seq'), (select coalesce(max(seq), 0) + 1 from audit), false),
       setval(pg_get_serial_sequence('outbox', 'id'), (select coalesce(max(id), 0) + 1 from outbox), false),
       setval(pg_get_serial_sequence('reloads', 'seq'), (select coalesce(max(seq), 0) + 1 from reloads), false)
"""


@contextmanager
def server_side(address: ServerAddress, *, create: bool) -> Iterator[ServerSide]:
    """A database, with every request settled that is still held; `create`: the tables may be missing.

    What is inserted is kept only if the block ends without an exception. Raises `StoreError`.
    """
    with closing(connect(address)) as db, as_store_error(address):
        if not is_current(db):
            if not create:
                raise StoreError(f"the database {address} has no tables of this proxy")
            migrate(db, address)
        serving = db.native(_SERVING, (ALIVE_SECONDS,)).fetchone()
        if serving is not None:
            raise StoreError(f"a process serves on the database {address}: stop it first ({serving[0]})")
        for (worker,) in db.native(_HOLDING).fetchall():
            settle_all(db, worker)
        with db.transaction(idle_seconds=None):
            yield ServerSide(address, db)


class ServerSide:
    """`copying.Side`."""

    def __init__(self, address: ServerAddress, db: PostgresSession) -> None:
        self.label = f"the database {address}"
        self.db = db

    def stream(self, sql: str) -> Iterator[Row]:
        return self.db.stream(sql)

    def prepare(self, days: Sequence[int]) -> None:
        for day in days[-MAX_PARTITIONS:]:
            make_partition(self.db, day)

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Row]) -> int:
        table = "settled" if table == REQUESTS else table
        listed = ", ".join(f'"{column}"' for column in columns)
        return self.db.copy_in(f"copy {table} ({listed}) from stdin", rows)

    def finish(self) -> None:
        self.db.native("update scopes set verified = 1")
        self.db.native(_SEQUENCES)
