"""Opens a database by its location. The only module that knows which database system is behind it.

Every function raises `StoreError`: one sentence for the operator. The driver is imported for an address only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import AdminSession, CachePurge, Database, KeptConfiguration
from codellama_proxy.store.location import Location, ServerAddress
from codellama_proxy.store.sql import copying
from codellama_proxy.store.sqlite import backup as copies
from codellama_proxy.store.sqlite import configurations, sessions
from codellama_proxy.store.sqlite.connection import version_warning
from codellama_proxy.store.sqlite.copying import file_side
from codellama_proxy.store.sqlite.database import owned_database
from codellama_proxy.store.sqlite.migrations import prepare

# ruff: noqa: PLC0415


def own(location: Location, say: Callable[[str], None]) -> AbstractContextManager[Database]:
    """The database for a server, created or migrated if need be. `say` is told what the start waits for.

    Raises `StoreError`, also if another server owns a file; any number of servers share an address.
    """
    if isinstance(location, Path):
        return owned_database(location)
    from codellama_proxy.store.postgres.database import shared_database

    return shared_database(location, say)


def engine_warning(location: Location) -> str | None:
    """A sentence if the installed version of the database system has a known defect."""
    return version_warning() if isinstance(location, Path) else None


def read_session(location: Location) -> AbstractContextManager[AdminSession]:
    """A session that only reads. Never creates the database; migrates a file of an older version first."""
    if isinstance(location, Path):
        return sessions.reading(location)
    from codellama_proxy.store.postgres import sessions as server

    return server.reading(location)


def write_session(location: Location, *, create: bool = False) -> AbstractContextManager[AdminSession]:
    """A session in one transaction, rolled back on any exception."""
    if isinstance(location, Path):
        return sessions.writing(location, create=create)
    from codellama_proxy.store.postgres import sessions as server

    return server.writing(location, create=create)


def inspect_session(location: Location) -> AbstractContextManager[AdminSession | None]:
    """A session that only reads and never migrates; `None` if there is no database."""
    if isinstance(location, Path):
        return sessions.inspecting(location)
    from codellama_proxy.store.postgres import sessions as server

    return server.inspecting(location)


def last_good_configuration(location: Location) -> KeptConfiguration | None:
    """The configuration that the last server on this database had in force, if any."""
    if isinstance(location, Path):
        return configurations.last_good(location)
    from codellama_proxy.store.postgres import sessions as server

    return server.last_good(location)


def purge_caches(location: ServerAddress, purge: CachePurge) -> int:
    """Have every process of an installation purge its response cache; returns the number of processes."""
    from codellama_proxy.store.postgres import sessions as server

    return server.purge_caches(location, purge)


def backup(database: Location, target: Path) -> int:
    """Copy the database to a new file while servers run; returns the size of the copy in bytes."""
    return copies.backup(_file(database), target)


def restore(source: Path, database: Location, moment: str) -> Path | None:
    """Replace the database, which no server may use, by a copy.

    The database before it is renamed to end in `moment`; returns its path, `None` if there was none.
    """
    return copies.restore(source, _file(database), moment)


def copy(source: Location, target: Location) -> dict[str, int]:
    """Copy an installation to an empty database; no server may use either. Returns the number of rows by table."""
    with _side(source, create=False) as origin, _side(target, create=True) as copied:
        return copying.copy(origin, copied)


def _side(location: Location, *, create: bool) -> AbstractContextManager[copying.Side]:
    if isinstance(location, Path):
        return file_side(location, create=create)
    from codellama_proxy.store.postgres.copying import server_side

    return server_side(location, create=create)


def migrate(location: Location) -> list[str]:
    """Create or migrate the database; returns the names of the migrations that were applied to a server's."""
    if isinstance(location, Path):
        prepare(location)
        return []
    from codellama_proxy.store.postgres import sessions as server

    return server.migrated(location)


def _file(location: Location) -> Path:
    if isinstance(location, Path):
        return location
    raise StoreError("only a database file is copied like this: use pg_dump and pg_restore, or database copy")
