"""Migrations: each file once, whole, with its record; damaged, edited or newer databases are refused."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sql.migrations import Migration, migrations_root
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.migrations import migrate, prepare, shipped, statements

ONE = Migration("0001_one", "create table one (a integer) strict;\ncreate index one_a on one (a);\n")
TWO = Migration("0002_two", "create table two (a integer) strict;\n")


def names(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {
            name for (name,) in db.execute("select name from sqlite_schema where name not like 'sqlite_%'")
        }


def schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("select name, sql from sqlite_schema order by name").fetchall()


def test_a_missing_file_becomes_a_database_with_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "data" / "proxy.db"
    prepare(path)
    assert {"keys", "key_secrets", "_migrations"} <= names(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path)
    before = path.read_bytes()
    prepare(path)
    assert path.read_bytes() == before


def test_every_intermediate_version_migrates_to_the_same_schema(tmp_path: Path) -> None:
    prepare(tmp_path / "whole.db")
    for count in range(1, len(shipped()) + 1):
        path = tmp_path / f"{count}.db"
        prepare(path, shipped()[:count])
        prepare(path)
        assert schema(path) == schema(tmp_path / "whole.db")


def test_every_table_is_strict(tmp_path: Path) -> None:
    prepare(tmp_path / "proxy.db")
    with closing(sqlite3.connect(tmp_path / "proxy.db")) as db:
        tables = db.execute("select name, strict from pragma_table_list where type = 'table'").fetchall()
    assert [name for name, strict in tables if not strict and not name.startswith("sqlite_")] == []


def test_migrations_are_numbered_without_gaps() -> None:
    assert [int(migration.name[:4]) for migration in shipped()] == list(range(1, len(shipped()) + 1))


def test_a_failing_migration_is_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    bad = Migration("0002_bad", TWO.sql + "insert into nowhere values (1);\n")
    with pytest.raises(StoreError, match="nowhere"):
        prepare(path, [ONE, bad])
    assert names(path) == {"_migrations", "one", "one_a"}
    prepare(path, [ONE, TWO])
    assert "two" in names(path)


def test_an_edited_migration_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path / "proxy.db", [ONE])
    with pytest.raises(StoreError, match="0001_one is not the one"):
        prepare(tmp_path / "proxy.db", [Migration(ONE.name, ONE.sql + "-- better\n"), TWO])
    assert "two" not in names(tmp_path / "proxy.db")


def test_a_newer_database_is_refused_and_not_modified(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    prepare(path, [ONE, TWO])
    before = schema(path)
    with pytest.raises(StoreError, match="newer version"):
        prepare(path, [ONE])
    assert schema(path) == before


def test_two_concurrent_processes_apply_each_migration_once(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    with closing(connect(path, create=True)) as first, closing(connect(path)) as second:
        migrate(first, [ONE])
        migrate(second, [ONE, TWO])
        migrate(first, [ONE, TWO])
        assert first.execute("select count(*) from _migrations").fetchone() == (2,)


def filled(path: Path) -> None:
    prepare(path, [ONE])
    with closing(connect(path)) as db:
        db.executemany("insert into one values (?)", ((n,) for n in range(20_000)))


def halved(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def overwritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    page = 4096 * 5
    data[page : page + 4096] = random.Random(1).randbytes(4096)
    path.write_bytes(data)


def not_a_database(path: Path) -> None:
    path.write_bytes(b"PK" + bytes(8000))


@pytest.mark.parametrize("damage", [halved, overwritten, not_a_database])
def test_a_damaged_file_is_refused_and_not_modified(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "proxy.db"
    filled(path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"is damaged; it was left as it is: restore a backup"):
        prepare(path, [ONE, TWO])
    assert path.read_bytes() == before


def test_statements_are_split_as_by_sqlite() -> None:
    sql = """
        create table a (b); -- one; not two
        insert into a values (';');
        create trigger t after insert on a
        begin
            select 1;
            select 2;
        end;
    """
    assert len(list(statements(sql))) == 3


def test_every_query_has_name_description_and_valid_sql(tmp_path: Path) -> None:
    prepare(tmp_path / "proxy.db")
    with closing(connect(tmp_path / "proxy.db")) as db:
        for statement in queries.load("keys").values():
            parameters = dict.fromkeys(("key_id", "prefix", "hash", "project", "size", "skip", "most"))
            parameters |= dict.fromkeys(("name", "created_at", "expires_at", "blocked", "models"))
            parameters |= dict.fromkeys(("limits", "metadata"))
            db.execute("explain " + statement.replace("{ids}", ":key_id"), parameters)


@pytest.mark.parametrize(
    "text",
    [
        "-- name: a\nselect 1;\n",
        "-- name: a\n-- does\n",
        "-- name: a\n-- x\nselect 1;\n-- name: a\n-- x\nselect 2;\n",
    ],
)
def test_an_incomplete_or_duplicate_query_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="query a"):
        queries.parse(text)


def test_migrations_are_found_in_a_package_and_in_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "codellama_proxy"
    assert migrations_root(package) == tmp_path / "migrations"
    (package / "migrations").mkdir(parents=True)
    assert migrations_root(package) == package / "migrations"
