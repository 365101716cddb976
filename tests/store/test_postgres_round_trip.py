"""Statements that are sent together: values, errors, and what a connection is good for afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from codellama_proxy.store.postgres.session import PostgresSession, ServerError, connect
from tests.support.postgres import Databases
from tests.support.postgres_store import address_of


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def db(request: pytest.FixtureRequest, postgres_databases: Databases) -> Iterator[PostgresSession]:
    address = replace(address_of(postgres_databases.empty()), prepare=request.param)
    with closing(connect(address)) as session:
        session.native("create table things (name text primary key, at float8)")
        yield session


def names(db: PostgresSession) -> list[str]:
    return [name for (name,) in db.native("select name from things order by name").fetchall()]


def test_values_arrive_as_they_are(db: PostgresSession) -> None:
    odd = ["", "a,b", '"', "\\", "{}", "null", "ä\n", "%s"]
    for _ in range(2):
        trip = db.round_trip()
        texts = trip.send("select x from unnest(%s::text[]) with ordinality as t (x, n) order by n", odd)
        data = trip.send("select x from unnest(%s::bytea[]) as t (x)", [b"\0\\\"'", b""])
        numbers = trip.send("select %s::bigint, %s::float8, %s::text, '%%'", 2**62, math.pi, None)
        nothing = trip.send("select 1 where false")
        empty = trip.send("select cardinality(%s::text[])", [])
        nul = trip.send("select %s::text, %s::text[]", "a\0b", ["\0", "\ud800"])
        trip.finish()
        assert [row[0] for row in texts.rows] == odd
        assert [bytes(row[0]) for row in data.rows] == [b"\0\\\"'", b""]
        assert numbers.rows == [(2**62, math.pi, None, "%")]
        assert nothing.rows == []
        assert empty.rows == [(0,)]
        assert nul.rows == [("a\ufffdb", ["\ufffd", "?"])]


def test_a_lot_is_sent_and_answered_without_a_deadlock(db: PostgresSession) -> None:
    trip = db.round_trip()
    answers = [trip.send("select %s::text", "x" * 500_000) for _ in range(40)]
    trip.finish()
    assert {len(answer.rows[0][0]) for answer in answers} == {500_000}


def test_statements_after_one_that_failed_have_no_effect(db: PostgresSession) -> None:
    for _ in range(2):
        trip = db.round_trip()
        trip.send("insert into things values (%s, %s)", "first", 1.5)
        trip.send("insert into things values (%s, %s)", "first", 2.5)
        trip.send("insert into things values ('second', 1)")
        with pytest.raises(ServerError, match="duplicate key"):
            trip.finish()
        assert names(db) == []
        assert db.usable


def test_a_transaction_may_span_two_round_trips_and_be_rolled_back(db: PostgresSession) -> None:
    trip = db.round_trip()
    trip.send("begin")
    trip.send("insert into things values (%s, %s)", "first", 1.5)
    trip.finish()
    assert names(db) == ["first"]
    trip = db.round_trip()
    trip.send("select 1 / 0")
    with pytest.raises(ServerError, match="division by zero"):
        trip.finish()
    db.roll_back()
    assert names(db) == []
    with pytest.raises(ServerError), db.transaction():
        db.native("insert into things values ('driver', 1 / 0)")
    trip = db.round_trip()
    trip.send("insert into things values (%s, %s)", "second", 1.5)
    trip.finish()
    assert names(db) == ["second"]


def test_a_lost_connection_cannot_be_used_any_more(
    db: PostgresSession, postgres_databases: Databases
) -> None:
    (backend,) = db.native("select pg_backend_pid()").fetchone()
    with closing(connect(address_of(postgres_databases.server.address()))) as other:
        other.native("select pg_terminate_backend(%s, 5000)", (backend,))
    trip = db.round_trip()
    trip.send("select 1")
    with pytest.raises(ServerError):
        trip.finish()
    assert not db.usable
