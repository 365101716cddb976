"""Backups: whole, private, taken while the proxy works, never over anything; and the way back, rehearsed."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from codellama_proxy.__main__ import main
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.sqlite import backup
from codellama_proxy.store.sqlite.connection import connect, lock_file
from codellama_proxy.store.sqlite.migrations import prepare, shipped
from tests.support.processes import until
from tests.support.proxy_process import Proxy, ProxyFactory, config, keys

MOCK = {"name": "mock", "provider": "mock", "mock": {"reply": "ok"}, "price": {"input": 1, "output": 2}}
Refused = Callable[..., str]
BUDGET = {"project": {"max_budget": 100, "budget_duration": "month"}}


def command(*arguments: str | Path, database: Path) -> int:
    return main([*map(str, arguments), "--database", str(database)])


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command on `proxy.db` that must fail; the one sentence it says."""

    def run(*arguments: str | Path) -> str:
        assert command(*arguments, database=tmp_path / "proxy.db") == 1
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        return output.err

    return run


def projects(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {project for (project,) in db.execute("select project from keys")}


def requests(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        (count,) = db.execute("select count(*) from requests").fetchone()
    return int(count)


def with_key(path: Path, project: str) -> None:
    prepare(path)
    with closing(connect(path)) as db:
        db.execute(
            "insert into keys (key_id, project, created_at, limits, metadata) values (?, ?, 0, '{}', ?)",
            (project, project, json.dumps({"note": "x" * 2000})),
        )


@contextmanager
def busy(served: Proxy) -> Iterator[list[int]]:
    """Requests one after another, as long as the block runs; their statuses."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(served.chat().status_code)

    worker = threading.Thread(target=ask)
    worker.start()
    try:
        yield statuses
    finally:
        over.set()
        worker.join()


def test_a_backup_under_load_can_be_restored_completely(
    proxy: ProxyFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = proxy(config(MOCK, limits=BUDGET))
    database, copy = Path(served.database), tmp_path / "backup.db"
    with busy(served) as statuses:
        until(lambda: len(statuses) > 20, "some requests")
        assert command("backup", copy, database=database) == 0
        before = len(statuses)
        until(lambda: len(statuses) > before + 5, "requests after the backup")
    assert set(statuses) == {200}
    late = served.new_key("came-after-the-backup")
    assert command("restore", copy, database=database) == 1
    assert "another server owns" in capsys.readouterr().err
    served.stop()
    assert list(database.parent.glob("proxy.db.journal.*")) == [], "the database alone is complete"
    whole = requests(database)

    assert command("restore", copy, database=database) == 0
    assert 20 <= requests(database) < whole
    (aside,) = [path for path in database.parent.glob("*.before-restore-*") if path.suffix != ".lock"]
    assert requests(aside) == whole, "the database before it is kept"
    served.start()
    assert served.chat().status_code == 200, "the key still works"
    unknown = {"authorization": f"Bearer {late['key']}"}
    assert served.client.get("/v1/models", headers=unknown).status_code == 401
    in_flight = [row for row in served.rows() if row["status"] != "ok"]
    assert all(row["basis"] == "crash_estimate" for row in in_flight), "caught by the backup in mid-air"
    reconciled = json.loads(keys(database, "reconcile", "--json").stdout)
    assert reconciled["ok"] is True


def test_a_backup_is_one_self_contained_private_file(tmp_path: Path) -> None:
    with_key(tmp_path / "proxy.db", "web-team")
    with closing(connect(tmp_path / "proxy.db")) as open_elsewhere:
        open_elsewhere.execute("update keys set name = 'still only in the log'")
        assert backup.backup(tmp_path / "proxy.db", tmp_path / "copies.db") > 0
    place = tmp_path / "elsewhere"
    place.mkdir()
    (tmp_path / "copies.db").rename(place / "proxy.db")
    assert [path.name for path in place.iterdir()] == ["proxy.db"]
    assert (place / "proxy.db").stat().st_mode & 0o777 == 0o600
    assert projects(place / "proxy.db") == {"web-team"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("there", [b"", b"a month of backups"])
def test_a_backup_never_overwrites_a_file(tmp_path: Path, refused: Refused, there: bytes) -> None:
    prepare(tmp_path / "proxy.db")
    (tmp_path / "copy.db").write_bytes(there)
    assert "nothing is ever overwritten" in refused("backup", tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_bytes() == there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "proxy.db"]


def test_a_backup_of_a_missing_database_creates_no_file(tmp_path: Path, refused: Refused) -> None:
    assert "there is no file" in refused("backup", tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_into_a_missing_directory_is_refused_with_a_message(
    tmp_path: Path, refused: Refused
) -> None:
    prepare(tmp_path / "proxy.db")
    assert "No such file or directory" in refused("backup", tmp_path / "nowhere" / "copy.db")


def test_a_backup_of_a_damaged_database_leaves_no_file(tmp_path: Path) -> None:
    for number in range(30):
        with_key(tmp_path / "proxy.db", f"team-{number}")
    data = bytearray((tmp_path / "proxy.db").read_bytes())
    data[4096 * 3 : 4096 * 4] = b"\xff" * 4096
    (tmp_path / "proxy.db").write_bytes(data)
    with pytest.raises(StoreError):
        backup.backup(tmp_path / "proxy.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_restore_migrates_an_older_schema(tmp_path: Path) -> None:
    prepare(tmp_path / "old.db", shipped()[:1])
    assert backup.restore(tmp_path / "old.db", tmp_path / "proxy.db", "now") is None
    assert requests(tmp_path / "proxy.db") == 0


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_an_invalid_backup_is_not_restored(tmp_path: Path, content: bytes) -> None:
    with_key(tmp_path / "proxy.db", "kept")
    (tmp_path / "copy.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"copy\.db"):
        backup.restore(tmp_path / "copy.db", tmp_path / "proxy.db", "now")
    assert projects(tmp_path / "proxy.db") == {"kept"}


def test_another_programs_database_is_not_restored(tmp_path: Path) -> None:
    with_key(tmp_path / "proxy.db", "kept")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as db:
        db.execute("create table photos (a)")
    with pytest.raises(StoreError, match="not a database of this proxy"):
        backup.restore(tmp_path / "copy.db", tmp_path / "proxy.db", "now")
    assert projects(tmp_path / "proxy.db") == {"kept"}


def test_a_database_in_use_is_not_replaced(tmp_path: Path) -> None:
    with_key(tmp_path / "proxy.db", "kept")
    backup.backup(tmp_path / "proxy.db", tmp_path / "copy.db")
    with lock_file(tmp_path / "proxy.db"), pytest.raises(StoreError, match="another server"):
        backup.restore(tmp_path / "copy.db", tmp_path / "proxy.db", "now")


def test_no_wal_of_the_old_database_is_left_after_a_restore(tmp_path: Path) -> None:
    with_key(tmp_path / "proxy.db", "in-the-copy")
    backup.backup(tmp_path / "proxy.db", tmp_path / "copy.db")
    (tmp_path / "proxy.db-wal").write_bytes(b"of a crash")
    aside = backup.restore(tmp_path / "copy.db", tmp_path / "proxy.db", "now")
    assert aside == tmp_path / "proxy.db.before-restore-now"
    assert (tmp_path / "proxy.db.before-restore-now-wal").read_bytes() == b"of a crash"
    assert projects(tmp_path / "proxy.db") == {"in-the-copy"}
