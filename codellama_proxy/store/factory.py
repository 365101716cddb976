"""Opens a database by its address. The only module that knows which database system is behind it.

Every function raises `StoreError`: one sentence for the operator.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from codellama_proxy.store.interfaces import AdminSession, Database, KeptConfiguration
from codellama_proxy.store.sqlite import backup as copies
from codellama_proxy.store.sqlite import configurations, sessions
from codellama_proxy.store.sqlite.connection import version_warning
from codellama_proxy.store.sqlite.database import owned_database


def own(database: Path) -> AbstractContextManager[Database]:
    """The database for a server, created or migrated if need be. Raises `StoreError` if another server owns it."""
    return owned_database(database)


def engine_warning() -> str | None:
    """A sentence if the installed version of the database system has a known defect."""
    return version_warning()


def read_session(database: Path) -> AbstractContextManager[AdminSession]:
    """A session that only reads. Never creates the database; migrates one of an older version first."""
    return sessions.reading(database)


def write_session(database: Path, *, create: bool = False) -> AbstractContextManager[AdminSession]:
    """A session in one transaction, rolled back on any exception."""
    return sessions.writing(database, create=create)


def inspect_session(database: Path) -> AbstractContextManager[AdminSession | None]:
    """A session that only reads and never migrates; `None` if there is no database."""
    return sessions.inspecting(database)


def last_good_configuration(database: Path) -> KeptConfiguration | None:
    """The configuration that the last server on this database had in force, if any."""
    return configurations.last_good(database)


def backup(database: Path, target: Path) -> int:
    """Copy the database to a new file while servers run; returns the size of the copy in bytes."""
    return copies.backup(database, target)


def restore(source: Path, database: Path, moment: str) -> Path | None:
    """Replace the database, which no server may use, by a copy.

    The database before it is renamed to end in `moment`; returns its path, `None` if there was none.
    """
    return copies.restore(source, database, moment)
