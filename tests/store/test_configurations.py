"""The last good configuration, as the database keeps it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.interfaces import MAX_RELOADS, KeptConfiguration, Reload
from codellama_proxy.store.sql.stored_configurations import SQL, keep, record, reload_of
from codellama_proxy.store.sqlite.configurations import last_good
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import prepare

FIRST = KeptConfiguration(b"models: []\n", "0123456789ab", 1000.0)
SECOND = KeptConfiguration("models: [] # é\n".encode(), "ba9876543210", 2000.5)


def test_the_last_good_configuration_is_stored_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)
    assert last_good(path) is None
    with closing(connect(path)) as db:
        for one in (FIRST, SECOND):
            keep(db, one)
            assert last_good(path) == one
        keep(db, None)
        assert last_good(path) is None


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (None, "there is no last good configuration in the database {}"),
        (b"models: {}", "the last good configuration in the database {} is no longer valid either"),
    ],
)
def test_a_missing_last_good_configuration_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bytes | None, why: str
) -> None:
    config, database = tmp_path / "proxy.yaml", tmp_path / "proxy.db"
    config.write_text("models: [\n")
    if kept is not None:
        prepare(database)
        with closing(connect(database)) as db:
            keep(db, KeptConfiguration(kept, "0123456789ab", 1000.0))
    options = ["--config", str(config), "--database", str(database)]
    assert main(["serve", *options, "--on-invalid", "last-good"]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{config}:2:1: not YAML")
    assert last == why.format(database)
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


def test_the_last_reloads_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)
    entries = [
        Reload(1000.0 + n, "0123456789ab", n % 2 == 0, (f"line {n}", "é")) for n in range(MAX_RELOADS + 3)
    ]
    with closing(connect(path)) as db:
        for entry in entries:
            record(db, entry)
        kept = [reload_of(row) for row in db.execute(SQL["reloads"])]
    assert kept == entries[:2:-1]


def test_a_reload_that_another_process_has_recorded_is_not_recorded_again(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)
    first = Reload(1000.0, "0123456789ab", True, ("a",))
    entries = [
        first,
        first._replace(at=1001.5),
        first._replace(at=1001.6, ok=False),
        first._replace(at=1004.0),
    ]
    with closing(connect(path)) as db:
        for entry in entries:
            record(db, entry)
        kept = [reload_of(row) for row in db.execute(SQL["reloads"])]
    assert kept == [entries[3], entries[2], entries[0]]
