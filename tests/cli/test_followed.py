"""Following the log of a database that several processes write to: no row is skipped, none comes twice."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.cli.followed import GAP_SECONDS, FollowedLog
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.sessions import AdminSession
from tests.support.postgres import Databases
from tests.support.postgres_store import PostgresStore, prepared_database

HOLD = (
    "insert into held (request_id, worker, created_at, project, endpoint, stream, hold_nanos, estimate_tokens) "
    "values (%s, 1, 0, 'web', '/', 0, 0, 1)"
)


@pytest.fixture
def store(postgres_databases: Databases) -> PostgresStore:
    return PostgresStore(prepared_database(postgres_databases))


def names(followed: FollowedLog) -> list[str]:
    rows, more = followed.fresh()
    assert not more
    return [row["request_id"] for row in rows]


def test_a_request_that_is_committed_after_younger_ones_is_shown_once(store: PostgresStore) -> None:
    with (
        closing(connect(store.address)) as db,
        psycopg.connect(store.address.url) as slow,
        psycopg.connect(store.address.url, autocommit=True) as quick,
    ):
        followed = FollowedLog(AdminSession(db), 0)
        quick.execute(HOLD, ("req_1",))
        slow.execute(HOLD, ("req_2",))
        quick.execute(HOLD, ("req_3",))
        assert names(followed) == ["req_1", "req_3"]
        assert names(followed) == []
        slow.commit()
        quick.execute(HOLD, ("req_4",))
        assert names(followed) == ["req_2", "req_4"]
        assert names(followed) == []


class Log:
    """`LedgerSession`, as far as following goes."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.calls = 0

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        self.calls += 1
        return [(one, {"n": one}) for one in sorted(self.positions) if one > position][:size]


@given(st.permutations(range(1, 15)), st.sets(st.integers(1, 14)), st.lists(st.integers(1, 5)))
def test_rows_come_once_in_whatever_order_they_are_committed(
    order: list[int], rolled_back: set[int], sizes: list[int]
) -> None:
    log, seen = Log(), []
    followed = FollowedLog(log, 0, clock=lambda: 0.0)  # type: ignore[arg-type]
    waiting = [one for one in order if one not in rolled_back]
    for size in [*sizes, len(order)]:
        log.positions += waiting[:size]
        waiting = waiting[size:]
        seen += [row["n"] for row in followed.fresh()[0]]
    assert sorted(seen) == sorted(set(order) - rolled_back)


def test_a_position_that_stays_empty_is_given_up() -> None:
    log, now = Log(), 0.0
    followed = FollowedLog(log, 1, clock=lambda: now)  # type: ignore[arg-type]
    log.positions = [5]
    followed.fresh()
    log.calls = 0
    followed.fresh()
    assert log.calls == 2
    now = GAP_SECONDS + 1
    log.calls = 0
    followed.fresh()
    assert log.calls == 1
