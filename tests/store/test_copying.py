"""An installation moves between a file and a server and back: nothing is lost, and balances match."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.core.request_id import new_request_id
from codellama_proxy.store import factory
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.location import Location, ServerAddress
from codellama_proxy.store.postgres.session import connect as connect_to_server
from codellama_proxy.store.reports import Filters
from codellama_proxy.store.sqlite.connection import connect
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.outbox import put
from tests.support.ledger_fixtures import NOW, Store, ask, end, of_key, of_project
from tests.support.postgres import Databases
from tests.support.postgres_store import address_of

MAX_NUMBER = (1 << 63) - 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with keys, settled requests on three days, one of them folded, and a request that a crash left held."""
    store = Store(tmp_path / "proxy.db")

    async def use(ledger: Ledger) -> None:
        for day in (5, 2, 0):
            at = NOW - day * 86400
            request = ask(
                *(of_project(max_budget=10**6), of_key(rpm_limit=60)),
                created_at=at,
                user="bob",
                request_id=new_request_id(at),
            )
            await ledger.admit(request)
            ledger.settle(end(request, 100 + day, content='{"a": "\\u0000"}', record=b"\x00\xff"))
        await store.writer.barrier()
        await ledger.fold(NOW - 3 * 86400)
        await ledger.roll_up()
        await ledger.admit(ask(of_project(max_budget=10**6), request_id=new_request_id(NOW)))
        await store.writer.run(lambda db: put(db, "score", "req_1", b"{}"))

    store.run(use)
    with factory.write_session(store.path) as session:
        session.create_key(KeyChange({"key_alias": "web", "metadata": {"a": "é%?"}}), "cli", NOW)
    return store.path


@pytest.fixture
def address(postgres_databases: Databases) -> ServerAddress:
    return address_of(postgres_databases.empty())


def contents(location: Location) -> Iterator[Any]:
    with factory.read_session(location) as session:
        yield session.keys(None)
        yield session.spend(("project", "day", "status", "user"), Filters())
        yield session.logs_after(0, 100)
        yield session.reconcile()


def test_an_installation_moves_to_a_server_and_back(
    file: Path, address: ServerAddress, tmp_path: Path
) -> None:
    rows = factory.copy(file, address)
    assert (rows["requests"], rows["keys"], rows["totals"], rows["outbox"]) == (3, 1, 1, 4)
    before = list(contents(file))
    assert before[-1] == []
    assert list(contents(address)) == before
    with closing(connect_to_server(address)) as db:
        assert db.native("select count(*) from settled_other").fetchone() == (0,)
        assert db.native("select nextval('requests_seq') > (select max(seq) from settled)").fetchone() == (
            True,
        )
    back = tmp_path / "back.db"
    assert factory.copy(address, back) == rows
    assert list(contents(back)) == before


@pytest.mark.parametrize("moment", ["9e999", "-9e999", "1e300", "-1"])
def test_a_request_without_a_date_is_named(file: Path, address: ServerAddress, moment: str) -> None:
    with closing(connect(file)) as db:
        db.execute(f"update requests set request_id = 'req_odd', created_at = {moment} where seq = 2")
    with pytest.raises(
        StoreError, match=r"created_at is not in the years 1970 to 9999: req_odd; correct its row"
    ):
        factory.copy(file, address)
    with factory.read_session(address) as session:
        assert session.logs_after(0, 1) == []


def test_the_largest_numbers_are_copied(file: Path, address: ServerAddress, tmp_path: Path) -> None:
    with closing(connect(file)) as db:
        db.execute(f"update requests set prompt_tokens = {MAX_NUMBER}, total_ms = 9e999")
    factory.copy(file, address)
    factory.copy(address, tmp_path / "back.db")
    for copied in (address, tmp_path / "back.db"):
        with factory.read_session(copied) as session:
            rows = [row for _, row in session.logs_after(0, 10)]
        assert [row["prompt_tokens"] for row in rows][:2] == [MAX_NUMBER] * 2  # the last one was held


def test_a_target_that_is_not_empty_is_left_as_it_was(file: Path, address: ServerAddress) -> None:
    factory.copy(file, address)
    with pytest.raises(StoreError, match="is not empty; nothing was copied"):
        factory.copy(file, address)


def test_a_database_that_is_served_is_not_copied(file: Path, address: ServerAddress, tmp_path: Path) -> None:
    with factory.own(file, print), pytest.raises(StoreError, match="another server owns the database"):
        factory.copy(file, address)
    factory.copy(file, address)
    with closing(connect_to_server(address)) as db:
        db.native(
            "insert into workers values (1, 'host:1', '0', '', 0, 0, extract(epoch from clock_timestamp())::float8)"
        )
    with pytest.raises(StoreError, match="a process serves on the database"):
        factory.copy(address, tmp_path / "back.db")


def test_the_commands_prepare_copy_and_check(
    file: Path, address: ServerAddress, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*words: str) -> Any:
        assert main(["database", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert asked("migrate", "--database", address.url)["applied"] == [
        "0001_installation",
        "0002_usage_keys",
        "0003_used_forms",
        "0004_usage_models",
        "0005_cache_purges",
        "0006_usage_users",
        "0007_unlimited_scopes",
        "0008_usage_days_agent",
        "0009_unanswered_commits",
        "0010_usage_sessions",
        "0011_settled_by_user",
    ]
    assert asked("migrate", "--database", address.url)["applied"] == []
    assert asked("copy", f"sqlite:///{file}", address.url)["rows"]["requests"] == 3
    assert asked("check", "--database", address.url)["ok"] is True
    assert main(["database", "check", "--database", str(file)]) == 0
