"""From every earlier schema with something in it to this one: nothing is lost, and everything works on it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.store import key_fields as key_values
from codellama_proxy.store.sql import keys as key_rows
from codellama_proxy.store.sqlite import daily_totals as folding
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare, shipped
from tests.support.ledger_fixtures import Store, ask, end, of_project

PREFIXES = range(1, len(shipped()) + 1)
SPENT = 7_000_000


def tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("select name from sqlite_schema where type = 'table'")}


def insert(db: sqlite3.Connection, table: str, **values: Any) -> None:
    names = ", ".join(values)
    db.execute(f"insert into {table} ({names}) values ({', '.join('?' * len(values))})", [*values.values()])


def fill(path: Path) -> str:
    """A key, and in its time a settled request, one in flight, and the balance they make; the key's secret."""
    with closing(connect(path)) as db:
        wanted = key_values.read({"key_alias": "web", "max_budget": 1, "budget_duration": "month"})
        key, secret = key_rows.create(db, wanted, time.time())
        if "requests" not in tables(db):
            return secret
        common = {
            "created_at": time.time(),
            "project": "web",
            "key_id": key.key_id,
            "endpoint": "/chat/completions",
            "stream": 0,
            "estimate_tokens": 5,
        }
        settled = {"status": "ok", "cost_nanos": SPENT, "hold_nanos": 0, "basis": "exact", "prompt_tokens": 5}
        insert(db, "requests", request_id="req_settled", **common, **settled)
        insert(db, "requests", request_id="req_held", **common, status="held", hold_nanos=9, estimate_nanos=3)
        month = {"budget_duration": "month", "window_start": 0.0, "window_end": 9e9, "first_seq": 1}
        sums = {"spent_nanos": SPENT, "held_nanos": 9, "folded_nanos": 0}
        insert(db, "scopes", scope="project:web", rated_at=time.time(), **month, **sums)
    return secret


@pytest.fixture(params=PREFIXES, ids=lambda count: f"after {shipped()[count - 1].name}")
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "proxy.db"
    prepare(path, shipped()[: request.param])
    secret = fill(path)
    prepare(path)
    return path, secret


def test_existing_keys_work_after_an_upgrade(upgraded: tuple[Path, str]) -> None:
    path, secret = upgraded
    with closing(connect(path)) as db:
        query = "select k.project, k.limits from keys k join key_secrets s using (key_id) where s.hash = ?"
        project, limits = db.execute(query, (key_rows.digest(secret),)).fetchone()
    assert project == "web"
    assert '"max_budget": 1000000000' in limits


def test_the_ledger_reconciles_after_an_upgrade(upgraded: tuple[Path, str]) -> None:
    path, _ = upgraded
    store = Store(path)
    with store.elsewhere() as db:
        before = db.execute("select count(*) from requests").fetchone()[0]
        assert folding.reconcile(db) == []
    assert before in (0, 2)

    async def go_on(ledger: Ledger) -> None:
        assert await ledger.recover() == (1 if before else 0), "what was in flight is settled"
        wanted = ask(of_project(max_budget=10**9, budget_duration="month"))
        await ledger.admit(wanted)
        ledger.settle(end(wanted, 1000))

    store.run(go_on)
    with store.elsewhere() as db:
        assert folding.reconcile(db) == []
        assert db.execute("select count(*) from requests where status = 'held'").fetchone() == (0,)
        assert db.execute("select count(*) from requests").fetchone() == (before + 1,)
        if before:
            assert db.execute(
                "select cost_nanos from requests where request_id = 'req_settled'"
            ).fetchone() == (SPENT,)


def test_every_table_is_readable_after_an_upgrade(upgraded: tuple[Path, str]) -> None:
    path, _ = upgraded
    with closing(connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        for table in tables(db):
            db.execute(f"select * from {table}").fetchall()
