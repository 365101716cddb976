"""The last good configuration, as the database keeps it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.store.configurations import Kept, keep, last_good
from codellama_proxy.store.database import StoreError, connect
from codellama_proxy.store.migrate import prepare

FIRST = Kept(b"models: []\n", "0123456789ab", 1000.0)
SECOND = Kept("models: [] # é\n".encode(), "ba9876543210", 2000.5)


def test_the_newest_is_kept_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)
    assert last_good(path) is None
    with closing(connect(path)) as db:
        for one in (FIRST, SECOND):
            keep(db, one)
            assert last_good(path) == one
        keep(db, None)
        assert last_good(path) is None


def test_no_database_and_one_of_an_older_version_have_none(tmp_path: Path) -> None:
    assert last_good(tmp_path / "none.db") is None
    path = tmp_path / "old.db"
    connect(path, create=True).close()
    assert last_good(path) is None


def test_a_damaged_database_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot read"):
        last_good(path)
