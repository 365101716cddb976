"""The writer: what is queued is committed once, in order, together; what fails harms nobody else."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.sqlite.checkpoint import Checkpointer
from codellama_proxy.store.sqlite.connection import connect, lock_file, passing, unavailable, version_warning
from codellama_proxy.store.sqlite.writer import Writer
from codellama_proxy.store.write_queue import SHARE_COMMIT_SECONDS
from tests.support.cases import each


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    one = Writer(tmp_path / "data" / "proxy.db")
    one.start()
    one.submit(lambda db: db.execute("create table t (n integer)")).result(30)
    yield one
    one.close(drain=0)


def insert(n: int) -> Callable[[sqlite3.Connection], int]:
    def fn(db: sqlite3.Connection) -> int:
        db.execute("insert into t values (?)", (n,))
        return n

    return fn


def fail(_: sqlite3.Connection) -> None:
    raise ValueError("mine")


def rows(writer: Writer) -> list[int]:
    with closing(sqlite3.connect(writer.path)) as db:
        return [n for (n,) in db.execute("select n from t order by rowid")]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Gate:
    """Keeps the writer's thread inside one function, so that everything queued meanwhile is one batch."""

    def __init__(self, writer: Writer) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()
        writer.submit(self._wait)
        assert self._entered.wait(30)

    def _wait(self, _: sqlite3.Connection) -> None:
        self._entered.set()
        assert self._open.wait(30)

    def open(self) -> None:
        self._open.set()


# --- committing --------------------------------------------------------------------------------------------


def test_run_returns_the_result_after_the_commit(writer: Writer) -> None:
    assert asyncio.run(writer.run(insert(7))) == 7
    assert rows(writer) == [7]


def test_queued_functions_share_one_commit_in_order(writer: Writer) -> None:
    gate = Gate(writer)
    before = writer.commits
    futures = [writer.submit(insert(n)) for n in range(20)]
    assert writer.pending == 21
    gate.open()
    assert [future.result(30) for future in futures] == list(range(20))
    assert writer.commits == before + 2  # the gate's, and one for all
    assert rows(writer) == list(range(20))
    eventually(lambda: writer.pending == 0)


def test_a_failing_function_is_rolled_back_alone(writer: Writer) -> None:
    def half(db: sqlite3.Connection) -> None:
        insert(99)(db)
        raise ValueError("mine")

    gate = Gate(writer)
    first, failing, last = writer.submit(insert(1)), writer.submit(half), writer.submit(insert(2))
    gate.open()
    assert (first.result(30), last.result(5)) == (1, 2)
    with pytest.raises(ValueError, match="mine"):
        failing.result(30)
    assert rows(writer) == [1, 2]
    assert writer.healthy


def test_an_invalid_statement_is_not_an_outage(writer: Writer) -> None:
    async def main() -> None:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await writer.run(lambda db: db.execute("select * from nowhere"))

    asyncio.run(main())
    assert writer.healthy


def test_cancelling_the_caller_does_not_stop_the_function(writer: Writer) -> None:
    async def main() -> None:
        gate = Gate(writer)
        task = asyncio.create_task(writer.run(insert(1)))
        await asyncio.sleep(0)
        task.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        await writer.barrier()

    asyncio.run(main())
    assert rows(writer) == [1]


def test_a_barrier_waits_for_everything_queued_before_it(writer: Writer) -> None:
    async def main() -> list[int]:
        for n in range(50):
            writer.post(insert(n))
        await writer.barrier()
        return rows(writer)

    assert asyncio.run(main()) == list(range(50))


def test_every_function_from_every_thread_runs_exactly_once(writer: Writer) -> None:
    def many(start: int) -> None:
        for n in range(start, start + 200):
            writer.post(insert(n))

    threads = [threading.Thread(target=many, args=(200 * i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(writer.barrier())
    assert sorted(rows(writer)) == list(range(1000))


def test_a_queued_write_cannot_be_taken_back(writer: Writer) -> None:
    gate = Gate(writer)
    future = writer.submit(insert(1))
    assert not future.cancel()
    gate.open()
    assert future.result(30) == 1


# --- outages -----------------------------------------------------------------------------------------------


@pytest.fixture
def locked(writer: Writer) -> Iterator[sqlite3.Connection]:
    """Another connection that holds the write lock; our own gives up quickly."""
    writer.submit(lambda db: db.execute("pragma busy_timeout=20")).result(30)
    with closing(sqlite3.connect(writer.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield other
        if other.in_transaction:
            other.execute("rollback")


@pytest.mark.usefixtures("locked")
def test_while_another_process_holds_the_lock_callers_fail_and_the_writer_is_unhealthy(
    writer: Writer,
) -> None:
    async def main() -> None:
        with pytest.raises(StoreUnavailableError, match="locked"):
            await writer.run(insert(1))
        with pytest.raises(StoreUnavailableError):
            await asyncio.gather(writer.run(insert(2)), writer.barrier())

    asyncio.run(main())
    assert not writer.healthy
    assert rows(writer) == []


def test_the_writer_recovers_when_the_lock_is_released(writer: Writer, locked: sqlite3.Connection) -> None:
    with pytest.raises(StoreUnavailableError):
        writer.submit(insert(1)).result(30)
    locked.execute("rollback")
    eventually(lambda: writer.healthy)


def test_kept_functions_survive_an_outage_in_order(writer: Writer, locked: sqlite3.Connection) -> None:
    kept = [writer.submit(insert(n), keep=True) for n in (1, 2)]
    eventually(lambda: not writer.healthy)
    dropped = writer.submit(insert(3))
    with pytest.raises(StoreUnavailableError):
        dropped.result(30)
    assert writer.pending == 2
    locked.execute("rollback")
    newer = writer.submit(insert(4))
    assert [future.result(30) for future in (*kept, newer)] == [1, 2, 4]
    assert rows(writer) == [1, 2, 4]
    assert writer.healthy


def test_a_full_disk_fails_the_batch_and_recovers_with_free_space(writer: Writer) -> None:
    def fill(db: sqlite3.Connection) -> None:
        db.execute("create table filler (b blob)")
        db.execute("insert into filler values (zeroblob(100000))")

    def cap(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("pragma page_count").fetchone()
        db.execute(f"pragma max_page_count={pages}")

    def large(db: sqlite3.Connection) -> None:
        db.execute("create table large as select zeroblob(50000) as b")

    writer.submit(fill).result(30)
    writer.submit(cap).result(30)
    with pytest.raises(StoreUnavailableError, match="full"):
        writer.submit(large).result(30)
    kept = writer.submit(large, keep=True)
    eventually(lambda: not writer.healthy)
    with closing(connect(writer.path)) as other:
        other.execute("delete from filler")
    kept.result(30)
    assert writer.healthy


def broken_disk(_: sqlite3.Connection) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    raise error


def test_an_io_error_reopens_the_connection(writer: Writer) -> None:
    async def main() -> None:
        version = await writer.data_version()
        gate = Gate(writer)
        results = asyncio.gather(writer.run(insert(1)), writer.run(broken_disk), return_exceptions=True)
        await asyncio.sleep(0)
        gate.open()
        assert all(isinstance(result, StoreUnavailableError) for result in await results)
        assert await writer.run(insert(2)) == 2
        assert await writer.data_version() != version  # nothing from before may be trusted

    asyncio.run(main())
    assert rows(writer) == [2]


def test_a_deleted_file_is_not_replaced_by_an_empty_one(writer: Writer) -> None:
    with pytest.raises(StoreUnavailableError):
        writer.submit(broken_disk).result(30)
    writer.path.unlink()
    with pytest.raises(StoreUnavailableError):
        writer.submit(insert(1)).result(30)
    assert not writer.path.exists()


# --- opening and closing -----------------------------------------------------------------------------------


def test_close_writes_the_queue_and_truncates_the_wal(writer: Writer) -> None:
    others = set(threading.enumerate()) - {writer._thread, writer._checkpointer._thread}
    gate = Gate(writer)
    for n in range(300):
        writer.post(insert(n))
    threading.Timer(0.05, gate.open).start()
    writer.close()
    wal = writer.path.with_name("proxy.db-wal")
    assert not wal.exists() or wal.stat().st_size == 0
    assert rows(writer) == list(range(300))
    with pytest.raises(StoreUnavailableError, match="closed"):
        writer.submit(insert(1))
    with pytest.raises(StoreUnavailableError, match="closed"):
        asyncio.run(writer.run(insert(1)))
    assert not [t for t in set(threading.enumerate()) - others if t.name.startswith("store-")]


@pytest.mark.usefixtures("locked")
def test_close_reports_a_timeout(writer: Writer) -> None:
    kept = writer.submit(insert(1), keep=True)
    began = time.monotonic()
    writer.close(drain=0.3)
    assert time.monotonic() - began < 5
    with pytest.raises(StoreUnavailableError):
        kept.result(0)


def test_the_data_version_changes_only_after_writes_of_other_connections(writer: Writer) -> None:
    async def main() -> None:
        version = await writer.data_version()
        await writer.run(insert(1))
        assert await writer.data_version() == version
        with closing(connect(writer.path)) as other:
            other.execute("insert into t values (2)")
        assert await writer.data_version() != version

    asyncio.run(main())


def test_the_files_are_private(writer: Writer) -> None:
    asyncio.run(writer.run(insert(1)))
    assert writer.path.parent.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in writer.path.parent.iterdir()}
    assert modes == dict.fromkeys(("proxy.db", "proxy.db-wal", "proxy.db-shm"), 0o600)


def test_an_unusable_path_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StoreError, match="cannot open the database"):
        Writer(tmp_path / "file" / "proxy.db").start()
    with pytest.raises(StoreError, match="cannot open the database"):
        Writer(tmp_path).start()


def test_two_servers_cannot_own_one_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    with lock_file(path), pytest.raises(StoreError, match="another server owns"), lock_file(path):
        raise AssertionError("both own it")
    with lock_file(path):
        assert (tmp_path / "proxy.db.lock").stat().st_mode & 0o777 == 0o600


def test_the_wal_is_checkpointed_while_the_writer_works(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    commits = 0
    with closing(connect(path, create=True)) as db:
        db.execute("create table t (b blob)")
        checkpointer = Checkpointer(path, lambda: commits, every=0.01)
        checkpointer.start()
        try:
            db.execute("insert into t values (zeroblob(1000000))")
            assert path.stat().st_size < 1_000_000
            commits += 1
            eventually(lambda: path.stat().st_size > 1_000_000)
        finally:
            checkpointer.close()
        assert path.with_name("proxy.db-wal").stat().st_size == 0


def test_a_checkpoint_error_does_not_end_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    commits = 1
    checkpointer = Checkpointer(path, lambda: commits, every=0.005)
    checkpointer.start()
    try:
        commits += 1  # there is no file yet
        time.sleep(0.05)
        with closing(connect(path, create=True)) as db:
            db.execute("create table t as select zeroblob(1000000) as b")
            commits += 1
            eventually(lambda: path.stat().st_size > 1_000_000)
    finally:
        checkpointer.close()


@each(
    ("version", "mended"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 0), True),
    ],
)
def test_sqlite_versions_with_the_wal_reset_bug_cause_a_warning(
    version: tuple[int, ...], mended: bool
) -> None:
    warning = version_warning(version)
    assert (warning is None) == mended
    assert mended or "WAL-reset" in str(warning)


def test_an_unawaited_write_joins_the_next_commit_or_is_committed_soon(writer: Writer) -> None:
    async def use() -> None:
        await writer.run(insert(0))
        before = writer.commits
        writer.post(insert(1))
        await writer.run(insert(2))
        assert writer.commits == before + 1
        writer.post(insert(3))
        while writer.pending:
            await asyncio.sleep(0.001)
        assert writer.commits == before + 2

    asyncio.run(asyncio.wait_for(use(), timeout=30))
    assert rows(writer) == [0, 1, 2, 3]


def test_a_wakeup_of_a_closed_event_loop_does_not_block(writer: Writer) -> None:
    async def post(n: int) -> None:
        writer.post(insert(n))

    asyncio.run(post(1))
    time.sleep(2 * SHARE_COMMIT_SECONDS)
    writer.post(insert(2))
    eventually(lambda: writer.pending == 0)
    assert rows(writer) == [1, 2]


class EarlyTimerLoop(asyncio.SelectorEventLoop):
    """Its timers ring too early, as those of loops do that count in whole milliseconds."""

    def call_later(self, delay: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return super().call_later(delay / 1000, callback, *args, **kwargs)


def test_a_write_queued_after_an_early_wakeup_is_committed(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama_proxy.store.write_queue.SHARE_COMMIT_SECONDS", 60.0)

    async def use() -> None:
        for n in range(3):
            writer.post(insert(n))
            until = time.monotonic() + 30
            while writer.pending:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=EarlyTimerLoop) as runner:
        runner.run(use())
    assert rows(writer) == [0, 1, 2]


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PROTOCOL],
)
def test_a_transient_error_is_an_outage_that_keeps_the_connection(code: int) -> None:
    error = sqlite3.OperationalError("later, perhaps")
    error.sqlite_errorcode = code
    assert unavailable(error)
    assert passing(error)
