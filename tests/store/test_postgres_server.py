"""The PostgreSQL server of the tests themselves."""

import psycopg

from tests.support.postgres import Databases


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
