"""Sessions of commands: a connection of their own, used synchronously; servers may be running."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import CachePurge, Difference, KeptConfiguration
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres import cache_purges, installation
from codellama_proxy.store.postgres.housekeeping import make_partitions
from codellama_proxy.store.postgres.migrations import is_current, migrate
from codellama_proxy.store.postgres.session import PostgresSession, as_store_error, connect
from codellama_proxy.store.postgres.standings import reconcile, standings
from codellama_proxy.store.sql.admin_queries import AdminQueries

COMMAND_IDLE_SECONDS = 10
"""How long a command's transaction may wait for it."""


@contextmanager
def reading(address: ServerAddress) -> Iterator[AdminSession]:
    """A session that only reads. The tables have to exist."""
    with closing(connect(address)) as db, as_store_error(address):
        if not is_current(db):
            raise StoreError(f"the database {address} is not prepared: run codellama-proxy database migrate")
        yield AdminSession(db)


@contextmanager
def writing(address: ServerAddress, *, create: bool) -> Iterator[AdminSession]:
    """A session in one transaction, rolled back on any exception. `create`: the tables, if need be."""
    with closing(connect(address)) as db, as_store_error(address):
        if not is_current(db):
            if not create:
                raise StoreError(
                    f"the database {address} is not prepared: run codellama-proxy database migrate"
                )
            migrate(db, address)
        with db.transaction(COMMAND_IDLE_SECONDS):
            yield AdminSession(db)


@contextmanager
def inspecting(address: ServerAddress) -> Iterator[AdminSession | None]:
    """A session that only reads and never migrates; `None` if there are no tables."""
    with closing(connect(address)) as db, as_store_error(address):
        yield AdminSession(db) if is_current(db) else None


def migrated(address: ServerAddress) -> list[str]:
    """Create or migrate the tables; returns the names of the migrations that were applied."""
    with closing(connect(address)) as db:
        applied = migrate(db, address)
        with as_store_error(address):
            make_partitions(db, time.time())
        return applied


def purge_caches(address: ServerAddress, purge: CachePurge) -> int:
    """Have every running process purge its response cache; returns their number."""
    with closing(connect(address)) as db, as_store_error(address):
        if not is_current(db):
            raise StoreError(f"the database {address} is not prepared: run codellama-proxy database migrate")
        with db.transaction(COMMAND_IDLE_SECONDS):
            return cache_purges.add(db, purge)


def last_good(address: ServerAddress) -> KeptConfiguration | None:
    """The configuration that the last server used; `None` if there is none. Raises `StoreError`."""
    with closing(connect(address)) as db, as_store_error(address):
        return installation.last_good(db) if is_current(db) else None


class AdminSession(AdminQueries):
    """`interfaces.AdminSession` on one connection."""

    def __init__(self, db: PostgresSession) -> None:
        super().__init__(db)
        self._server = db

    def reconcile(self) -> list[Difference]:
        return reconcile(self._server)

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        return standings(self._server, scopes) if scopes else []

    def digest_key(self) -> bytes | None:
        return installation.known_digest_key(self._server)
