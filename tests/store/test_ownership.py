"""One server on one database file, whatever it is called, and only while it is where it was."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import prepare
from codellama_proxy.store.sqlite.ownership import in_use, owned
from codellama_proxy.store.sqlite.writer import Writer
from tests.support.processes import until
from tests.support.proxy_process import keys


def symbolic(path: Path) -> Path:
    other = path.with_name("other") / "link.db"
    other.parent.mkdir()
    other.symlink_to(path)
    return other


def hard(path: Path) -> Path:
    other = path.with_name("hard.db")
    other.hardlink_to(path)
    return other


def unlocked(path: Path) -> Path:
    path.with_name(path.name + ".lock").unlink()
    return path


def linked_directory(path: Path) -> Path:
    place = path.parent.with_name(path.parent.name + "-link")
    place.symlink_to(path.parent)
    return place / path.name


@pytest.mark.parametrize("name", [symbolic, hard, unlocked, linked_directory])
def test_a_second_owner_is_refused_under_every_path(tmp_path: Path, name: Callable[[Path], Path]) -> None:
    path = tmp_path / "proxy.db"
    with owned(path):
        other = name(path)
        assert in_use(other)
        with pytest.raises(StoreError, match="another server owns"), owned(other):
            raise AssertionError("both own it")
    with owned(other):
        pass
    assert not in_use(other)


def test_ownership_does_not_interfere_with_sqlites_locks(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    with owned(path):
        prepare(path)
        writer = Writer(path)
        writer.start()
        try:
            assert keys(path, "create", "web").returncode == 0
            with closing(connect(path, busy_ms=0)) as other:
                other.execute("begin immediate")
                locked = keys(path, "create", "web", check=False)
                assert "locked" in locked.stderr, "another process sees the lock of this one"
                other.execute("rollback")
            found = writer.submit(lambda db: db.execute("select count(*) from keys").fetchone())
            assert found.result(30) == (1,)
        finally:
            writer.close()


# --- a file that is lost -------------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(b"")
    copy.replace(path)


def move_the_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def delete_the_log(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


@pytest.mark.parametrize("lose", [delete, replace, move_the_directory, delete_the_log])
def test_no_write_is_acknowledged_on_a_lost_file(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path = tmp_path / "data" / "proxy.db"
    with owned(path) as database:
        writer = Writer(path, database.lost)
        writer.start()
        try:
            writer.submit(lambda db: db.execute("create table t (n)")).result(30)
            writer.submit(lambda db: db.execute("insert into t values (0)")).result(
                30
            )  # its log is known now
            lose(path)
            lost = os.path.lexists(path) and path.stat().st_ino
            with pytest.raises(StoreUnavailableError, match="removed or replaced"):
                writer.submit(lambda db: db.execute("insert into t values (1)")).result(30)
            assert not writer.healthy
            assert (os.path.lexists(path) and path.stat().st_ino) == lost, "and none is made in its place"
        finally:
            writer.close(drain=0)


def test_serving_resumes_when_the_file_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "data" / "proxy.db"
    with owned(path) as database:
        writer = Writer(path, database.lost)
        writer.start()
        try:
            writer.submit(lambda db: db.execute("create table t (n)")).result(30)
            path.parent.rename(tmp_path / "away")
            kept = writer.submit(lambda db: db.execute("insert into t values (1)"), keep=True)
            until(lambda: not writer.healthy, "the loss is noticed")
            (tmp_path / "away").rename(path.parent)
            kept.result(30)
            assert writer.healthy
        finally:
            writer.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select n from t").fetchall() == [(1,)]
