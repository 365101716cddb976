"""The last good configuration, as the database keeps it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.factory import last_good_configuration, own
from codellama_proxy.store.interfaces import MAX_RELOADS, KeptConfiguration, Reload
from codellama_proxy.store.location import Location
from codellama_proxy.store.postgres.session import connect as connect_to_server
from codellama_proxy.store.sql.stored_configurations import SQL, keep, record, reload_of
from codellama_proxy.store.sqlite.configurations import last_good
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import prepare
from tests.support.postgres_store import address_of, prepared_database

FIRST = KeptConfiguration(b"models: []\n", "0123456789ab", 1000.0)
SECOND = KeptConfiguration("models: [] # é\n".encode(), "ba9876543210", 2000.5)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A migrated database of either system."""
    if request.param == "sqlite":
        prepare(tmp_path / "proxy.db")
        return tmp_path / "proxy.db"
    return prepared_database(request.getfixturevalue("postgres_databases"))


def session(location: Location) -> Any:
    return closing(connect(location) if isinstance(location, Path) else connect_to_server(location))


def written(location: Location) -> str:
    """As an option of a command."""
    return str(location) if isinstance(location, Path) else location.url


def test_the_last_good_configuration_is_stored_byte_for_byte(location: Location) -> None:
    assert last_good_configuration(location) is None
    with session(location) as db:
        for one in (FIRST, SECOND):
            keep(db, one)
            assert last_good_configuration(location) == one
        keep(db, None)
        assert last_good_configuration(location) is None


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_what_a_server_keeps_and_records_is_there_after_it_ended(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    location: Location = tmp_path / "proxy.db"
    if engine == "postgres":
        location = address_of(request.getfixturevalue("postgres_databases").empty())
    reloads = [Reload(1000.0 + 10 * n, f"{n:012d}", n != 1, ("models.a: added", "é")) for n in range(3)]

    async def main() -> None:
        with own(location, print) as database:
            assert database.digest_key() == database.digest_key()
            async with database.open() as store:
                store.configurations.keep(FIRST)
                store.configurations.keep(SECOND)
                for reload in reloads:
                    store.configurations.record(reload)
                assert await store.configurations.reloads() == reloads[::-1]
                store.configurations.record(reloads[0]._replace(at=2000.0))  # queued when the server ends

    asyncio.run(main())
    assert last_good_configuration(location) == SECOND
    with session(location) as db:
        kept = [reload_of(row) for row in db.execute(SQL["reloads"])]
    assert [one.at for one in kept] == [2000.0, 1020.0, 1010.0, 1000.0]


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (None, "there is no last good configuration in the database {}"),
        (b"models: {}", "the last good configuration in the database {} is no longer valid either"),
    ],
)
def test_a_missing_last_good_configuration_is_reported(
    tmp_path: Path,
    location: Location,
    capsys: pytest.CaptureFixture[str],
    kept: bytes | None,
    why: str,
) -> None:
    config = tmp_path / "proxy.yaml"
    config.write_text("models: [\n")
    if kept is not None:
        with session(location) as db:
            keep(db, KeptConfiguration(kept, "0123456789ab", 1000.0))
    options = ["--config", str(config), "--database", written(location)]
    assert main(["serve", *options, "--on-invalid", "last-good"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{config}:2:1: not YAML")
    assert last == why.format(location)
    assert main(["serve", *options, "--on-invalid", "refuse"]) == 1
    assert capsys.readouterr().err.splitlines() == [first]


def test_missing_and_older_databases_have_no_configuration(tmp_path: Path) -> None:
    assert last_good(tmp_path / "none.db") is None
    path = tmp_path / "old.db"
    connect(path, create=True).close()
    assert last_good(path) is None


def test_a_damaged_database_is_not_treated_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot read"):
        last_good(path)


def test_the_last_reloads_are_kept(location: Location) -> None:
    entries = [
        Reload(1000.0 + n, "0123456789ab", n % 2 == 0, (f"line {n}", "é")) for n in range(MAX_RELOADS + 3)
    ]
    with session(location) as db:
        for entry in entries:
            record(db, entry)
        kept = [reload_of(row) for row in db.execute(SQL["reloads"])]
    assert kept == entries[:2:-1]


def test_a_reload_that_another_process_has_recorded_is_not_recorded_again(location: Location) -> None:
    first = Reload(1000.0, "0123456789ab", True, ("a",))
    entries = [
        first,
        first._replace(at=1001.5),
        first._replace(at=1001.6, ok=False),
        first._replace(at=1004.0),
    ]
    with session(location) as db:
        for entry in entries:
            record(db, entry)
        kept = [reload_of(row) for row in db.execute(SQL["reloads"])]
    assert kept == [entries[3], entries[2], entries[0]]
