"""The migrations that this version ships, and which of them a database needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import codellama_proxy
from codellama_proxy.store.errors import StoreError

PACKAGE = Path(codellama_proxy.__file__).parent


class Migration(NamedTuple):
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped_for(system: str) -> tuple[Migration, ...]:
    """The migrations of this version for a database system (the name of a folder), in order."""
    found = (
        Migration(path.stem, path.read_text("utf-8")) for path in (migrations_root() / system).glob("*.sql")
    )
    return tuple(sorted(found, key=lambda migration: migration.name))


def migrations_root(package: Path = PACKAGE) -> Path:
    """The folder with one folder per database system, in the installed package or in the checkout."""
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def pending(migrations: Sequence[Migration], applied: Sequence[tuple[str, str]]) -> tuple[Migration, ...]:
    """The migrations to apply, in order, given the applied names and hashes.

    Raises `StoreError` if one was edited or is of a newer version.
    """
    known = {migration.name for migration in migrations}
    for name, _ in applied:
        if name not in known:
            raise StoreError(f"the database was written by a newer version (it has migration {name})")
    return missing(migrations, applied)


def missing(migrations: Sequence[Migration], applied: Sequence[tuple[str, str]]) -> tuple[Migration, ...]:
    """As `pending`, but migrations of newer versions are ignored."""
    hashes = dict(applied)
    for migration in migrations:
        if hashes.get(migration.name, migration.sha256) != migration.sha256:
            raise StoreError(f"migration {migration.name} is not the one that was applied to this database")
    return tuple(migration for migration in migrations if migration.name not in hashes)
