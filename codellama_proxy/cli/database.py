"""The database of a command: where it is, and the sessions on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from codellama_proxy.cli.run import CommandError
from codellama_proxy.store.factory import read_session, write_session
from codellama_proxy.store.interfaces import AdminSession
from codellama_proxy.store.location import DEFAULT_DATABASE, Location, database_location

PASSWORD_FILE = "PROXY_DATABASE_PASSWORD_FILE"  # noqa: S105 - the name of a variable


def location_of(given: str | None) -> Location:
    """The option or `PROXY_DATABASE`, else `PROXY_DATABASE` of `.env`, else the default. Raises `StoreError`."""
    return location(given or _dotenv().get("PROXY_DATABASE") or DEFAULT_DATABASE)


def location(given: str) -> Location:
    """A file or an address, with the password file that the environment or `.env` names. Raises `StoreError`."""
    file = os.environ.get(PASSWORD_FILE) or _dotenv().get(PASSWORD_FILE)
    return database_location(given, Path(file) if file else None)


def _dotenv() -> Mapping[str, str | None]:
    """Raises `CommandError` for a file that cannot be read."""
    if not Path(".env").is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 - often there is no such file

    try:
        return dotenv_values(".env")
    except (OSError, UnicodeError):
        raise CommandError(".env cannot be read") from None


def reading(given: str | None) -> AbstractContextManager[AdminSession]:
    """A session that only reads. It never creates the database. Raises `StoreError`."""
    return read_session(location_of(given))


def change(given: str | None, *, create: bool = False) -> AbstractContextManager[AdminSession]:
    """A session in one transaction, rolled back on any exception. Raises `StoreError`."""
    return write_session(location_of(given), create=create)
