"""The ledger's journal: what was promised is in the database after a crash at any moment, once."""

import asyncio
import errno
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.snapshot import Project
from codellama_proxy.core.types import Key, Usage
from codellama_proxy.limits.admission import Extension
from codellama_proxy.store.errors import StoreError
from codellama_proxy.store.ledger import journal_lines
from codellama_proxy.store.ledger.journal_lines import Admitted, Event, Extended, Settled
from codellama_proxy.store.ledger.rows import ExtendedRow, HeldRow, SettledRow, held_row, settled_row
from codellama_proxy.store.sqlite import replay
from codellama_proxy.store.sqlite.backup import backup, restore
from codellama_proxy.store.sqlite.database import owned_database
from codellama_proxy.store.sqlite.journal import MAX_FILE_BYTES, Journal, files
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.ownership import owned
from tests.support.builders import deployment, snapshot
from tests.support.ledger_fixtures import Store, ask, end, of_global, of_key, of_project

BUDGET = 10**6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "proxy.db")


# --- lines ---------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**62), 2**62)
admissions = st.builds(
    lambda seq, name, hold: Admitted(seq, held_row(ask(request_id=name, user=name), hold)),
    numbers,
    texts,
    numbers,
)
extensions = st.builds(
    Extended, texts, numbers, st.builds(ExtendedRow, numbers, st.none() | numbers, texts, texts, texts)
)
settlements = st.builds(
    lambda name, cost, seconds, content: Settled(
        name, settled_row(end(name, cost, total_ms=seconds)), content, content
    ),
    texts,
    st.none() | numbers,
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | texts,
)
events = st.lists(admissions | extensions | settlements, max_size=8)


@given(events)
def test_events_survive_their_lines(happened: list[Event]) -> None:
    data = journal_lines.header("id") + b"".join(journal_lines.line(event) for event in happened)
    assert journal_lines.header_of(data.partition(b"\n")[0]) == journal_lines.Header(1, "id")
    assert list(journal_lines.events(data)) == happened


@given(events, st.data())
def test_a_cut_or_damaged_line_is_left_out_and_no_other(happened: list[Event], data: st.DataObject) -> None:
    lines = [journal_lines.line(event) for event in happened]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    complete = sum(len(b"".join(lines[: n + 1])) - 1 <= cut for n in range(len(lines)))
    assert list(journal_lines.events(whole[:cut])) == happened[:complete]
    if lines:
        at = data.draw(st.integers(0, len(lines) - 1))
        zeros = lines[at][:-5] + b"\0" * 4 + b"\n"
        damaged = b"".join([*lines[:at], zeros, *lines[at + 1 :]])
        assert list(journal_lines.events(damaged)) == [*happened[:at], *happened[at + 1 :]]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_journal_have_no_events(data: bytes) -> None:
    assert list(journal_lines.events(data)) == []
    assert journal_lines.header_of(data) is None


# --- crashes -------------------------------------------------------------------------------------------------


def crashed(store: Store, tmp_path: Path, use: Callable[[Ledger], Any]) -> Store:
    """The database after a process died at the end of `use`, before anything else was written."""

    async def main(ledger: Ledger) -> None:
        await use(ledger)
        store.copy_as_killed(tmp_path / "crashed")

    store.run(main)
    return Store(tmp_path / "crashed" / "proxy.db")


def recovered(store: Store) -> dict[str, tuple[Any, ...]]:
    """Status, basis, cost and hold by request, after the next start; the balances are the sums of the rows."""

    async def start(ledger: Ledger) -> None:
        await ledger.recover()
        assert await ledger.reconcile() == []

    store.run(start)
    with store.elsewhere() as db:
        rows = db.execute("select request_id, status, basis, cost_nanos, hold_nanos from requests").fetchall()
    return {row[0]: row[1:] for row in rows}


def test_events_that_only_the_journal_has_are_in_the_database_after_a_crash(
    store: Store, tmp_path: Path
) -> None:
    scopes = of_global(max_budget=BUDGET), of_project(max_budget=BUDGET), of_key(max_budget=BUDGET)
    first, held, done, longer = (ask(*scopes) for _ in range(4))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(first)  # reads the balances; written at once
        await store.writer.barrier()
        for request in (held, done, longer):
            await ledger.admit(request)
        ledger.settle(end(done, 3, content='{"messages": []}', record=b"{}", usage=Usage(7, 8)))
        await ledger.extend(Extension(longer.request_id, scopes, 20, deployment("second"), ()))
        assert store.value("select count(*) from requests") == 1, "the rest is only in the journal"

    after = crashed(store, tmp_path, use)
    assert after.value("select count(*) from requests") == 1
    assert recovered(after) == {
        first.request_id: ("error", "crash_estimate", 5, 5),
        held.request_id: ("error", "crash_estimate", 5, 5),
        done.request_id: ("ok", "exact", 3, 5),
        longer.request_id: ("error", "crash_estimate", 25, 25),
    }
    assert [after.balance(scope.id) for scope in scopes] == [(38, 0)] * 3
    row = "select prompt_tokens, completion_tokens, model from requests where request_id = ?"
    with after.elsewhere() as db:
        assert db.execute(row, (done.request_id,)).fetchone() == (7, 8, "codellama")
        assert db.execute("select request_id, content from request_contents").fetchall() == [
            (done.request_id, '{"messages": []}')
        ]
        assert db.execute("select request_id, body from outbox").fetchall() == [(done.request_id, b"{}")]


def test_a_settlement_that_only_the_journal_has_completes_a_row_that_was_written(
    store: Store, tmp_path: Path
) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)
        await store.writer.barrier()
        ledger.settle(end(request, 3))

    after = crashed(store, tmp_path, use)
    assert after.value("select status from requests") == "held"
    assert recovered(after) == {request.request_id: ("ok", "exact", 3, 5)}


def test_events_that_a_journal_repeats_are_applied_once(store: Store, tmp_path: Path) -> None:
    budget = of_project(max_budget=BUDGET)
    written, done, held = (ask(budget) for _ in range(3))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(written)
        await store.writer.barrier()
        for request in (done, held):
            await ledger.admit(request)
            await ledger.extend(Extension(request.request_id, (budget,), 20, deployment("second"), ()))
        for request in (written, done):
            ledger.settle(end(request, 3))

    after = crashed(store, tmp_path, use)
    (path,) = files(after.path)
    header, _, lines = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n" + lines * 2)
    assert recovered(after) == {
        written.request_id: ("ok", "exact", 3, 5),
        done.request_id: ("ok", "exact", 3, 25),
        held.request_id: ("error", "crash_estimate", 25, 25),
    }
    assert after.balance("project:web") == (31, 0)


def test_a_journal_is_applied_once_however_often_a_start_fails(store: Store, tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        for _ in range(3):
            request = ask(of_project(max_budget=BUDGET))
            await ledger.admit(request)
            ledger.settle(end(request, 3, record=b"{}"))

    after = crashed(store, tmp_path, use)
    with after.elsewhere() as db:
        for _ in range(3):
            db.execute("begin")
            assert len(replay.replay(db, files(after.path))) == 1
            db.execute("commit")
            assert db.execute("select spent_nanos, held_nanos from scopes").fetchall() == [(9, 0)]
            assert db.execute("select count(*) from outbox").fetchone() == (3,)
    assert len(recovered(after)) == 3
    assert after.balance("project:web") == (9, 0)


def test_rows_that_were_folded_do_not_come_back(store: Store, tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        for _ in range(3):
            request = ask(of_project(max_budget=BUDGET))
            await ledger.admit(request)
            ledger.settle(end(request, 3))
        store.now += 10 * 86400
        assert await ledger.fold(store.now) == 2

    after = crashed(store, tmp_path, use)
    assert len(recovered(after)) == 1
    assert after.balance("project:web") == (9, 0)


def test_the_journal_of_another_database_is_ignored(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(ledger: Ledger) -> None:
        await ledger.admit(ask(of_project(max_budget=BUDGET)))

    after = crashed(store, tmp_path, use)
    (journal,) = files(after.path)
    other = Store(tmp_path / "other" / "proxy.db")
    other.run(use)
    moved = other.path.with_name("proxy.db.journal.7")
    moved.write_bytes(journal.read_bytes())
    assert len(recovered(other)) == 1
    assert "proxy.db.journal.7 does not continue this database" in caplog.text
    assert files(other.path) == [moved], "it is left as it is"


def test_a_journal_continues_no_copy_that_a_server_has_used_since(store: Store, tmp_path: Path) -> None:
    async def use(ledger: Ledger) -> None:
        await ledger.admit(ask(of_project(max_budget=BUDGET)))

    after = crashed(store, tmp_path, use)
    (journal,) = files(after.path)
    kept = journal.read_bytes()
    assert len(recovered(after)) == 1
    journal.write_bytes(kept)
    with after.elsewhere() as db:
        db.execute("delete from requests")
        db.execute("delete from scopes")
    assert recovered(after) == {}


def test_a_backup_after_a_crash_has_what_only_the_journal_had(store: Store, tmp_path: Path) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)
        ledger.settle(end(request, 3))

    after = crashed(store, tmp_path, use)
    target = tmp_path / "backup.db"
    backup(after.path, target)
    for copy in (Store(target), after):
        assert recovered(copy) == {request.request_id: ("ok", "exact", 3, 5)}
        assert copy.balance("project:web") == (3, 0)


def test_a_backup_of_a_running_server_has_what_was_promised_before(store: Store, tmp_path: Path) -> None:
    requests = [ask(of_project(max_budget=BUDGET)) for _ in range(3)]
    target = tmp_path / "backup.db"

    async def use(ledger: Ledger) -> None:
        for request in requests:
            await ledger.admit(request)
        await asyncio.to_thread(backup, store.path, target)

    with owned(store.path):
        store.run(use)
    assert set(recovered(Store(target))) == {request.request_id for request in requests}


def test_restoring_moves_the_journal_away_with_its_database(store: Store, tmp_path: Path) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)

    after = crashed(store, tmp_path, use)
    other = Store(tmp_path / "other.db")
    previous = restore(other.path, after.path, "now")
    assert previous is not None
    assert recovered(after) == {}
    assert files(after.path) == []
    assert set(recovered(Store(previous))) == {request.request_id}


def test_a_clean_end_leaves_no_journal(store: Store) -> None:
    async def use(ledger: Ledger) -> None:
        request = ask(of_project(max_budget=BUDGET))
        await ledger.admit(request)
        (path,) = files(store.path)
        assert path.stat().st_mode & 0o777 == 0o600
        ledger.settle(end(request, 3))

    store.run(use)
    assert files(store.path) == []


def test_full_files_are_deleted_only_after_a_checkpoint(store: Store) -> None:
    async def use(ledger: Ledger) -> None:
        for _ in range(2 * MAX_FILE_BYTES // 50_000):
            request = ask(of_project(max_budget=BUDGET))
            await ledger.admit(request)
            ledger.settle(end(request, 1, content="x" * 50_000))
        await store.writer.barrier()
        await asyncio.sleep(0)
        assert len(files(store.path)) > 1, "committed, but not synced"
        async with asyncio.timeout(20):  # without further requests
            while len(files(store.path)) > 1:
                await asyncio.sleep(0.05)

    store.run(use)


def _serve_until_killed(path: Path, admitted: "multiprocessing.connection.Connection") -> None:
    store = Store(path)

    async def use(ledger: Ledger) -> None:
        while True:
            request = ask(of_project(max_budget=10**9), request_id=f"req_{os.getpid()}_{os.urandom(4).hex()}")
            await ledger.admit(request)
            admitted.send((request.request_id, "held"))
            if os.urandom(1)[0] % 4 == 0:
                scopes = of_project(max_budget=10**9)
                await ledger.extend(Extension(request.request_id, (scopes,), 7, deployment("b"), ()))
            ledger.settle(end(request, 3))
            admitted.send((request.request_id, "ok"))
            await asyncio.sleep(os.urandom(1)[0] / 255 * 0.004)

    store.run(use)


def test_after_sigkill_at_any_moment_what_was_promised_is_there_once(store: Store) -> None:
    """Nothing waits for a commit here: the journal alone has the last events."""
    context = multiprocessing.get_context("spawn")
    promised: dict[str, str] = {}
    for kill_after in (2, 60, 301):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_serve_until_killed, args=(store.path, theirs))
        child.start()
        theirs.close()
        for _ in range(kill_after):
            request_id, status = ours.recv()
            promised[request_id] = status
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        while True:  # sent before its death
            try:
                request_id, status = ours.recv()
            except EOFError:
                break
            promised[request_id] = status
        child.join()
        rows = recovered(store)
        assert set(promised) <= set(rows)
        for request_id, status in promised.items():
            if status == "ok":
                assert rows[request_id][:3] == ("ok", "exact", 3)
        assert "held" not in {row[0] for row in rows.values()}
        assert store.balance("project:web") == (sum(row[2] for row in rows.values()), 0)


def test_files_that_a_killed_start_had_replayed_are_deleted_and_not_replayed_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed after the transaction of the replay and before the deletion, several times."""
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)
        ledger.settle(end(request, 3, content='{"messages": ["secret"]}'))

    async def nothing(ledger: Ledger) -> None:
        pass

    after = crashed(store, tmp_path, use)
    for number in range(3):
        (tmp_path / f"{number}").mkdir()
        earlier = files(after.path)
        after = crashed(after, tmp_path / f"{number}", nothing)
        assert [path.name for path in files(after.path)][:-1] == [path.name for path in earlier]
    with after.elsewhere() as db:  # as if `fold` had removed it: it may not come back
        db.execute("delete from requests")
        db.execute("update scopes set first_seq = 0, spent_nanos = 3")
    left = files(after.path)
    after.path.with_name("proxy.db.journal.9").touch()  # killed before it wrote the header

    async def start(ledger: Ledger) -> None:
        await ledger.recover()
        async with asyncio.timeout(20):  # without any request
            while len(files(after.path)) > 1:
                await asyncio.sleep(0.05)
        assert not {*left} & {*files(after.path)}

    after.run(start)
    assert after.balance("project:web") == (3, 0)
    assert after.value("select count(*) from requests where request_id = ?", request.request_id) == 0
    assert files(after.path) == []
    assert "does not continue" not in caplog.text


# --- files that are no journal, or one that cannot be read -------------------------------------------------------


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def _zeros(path: Path) -> None:
    path.write_bytes(b"00000000\n" * 3 + b"\0" * 5000)


@pytest.mark.parametrize("make", [_directory, _link, _dangling, os.mkfifo, _zeros])
def test_files_of_others_are_left_as_they_are(
    store: Store, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    request, later = ask(of_project(max_budget=BUDGET)), ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)

    after = crashed(store, tmp_path, use)
    others = [after.path.with_name(f"proxy.db.journal.{number}") for number in (0, 7)]
    for other in others:
        make(other)
    with owned_database(after.path):
        pass
    assert set(recovered(after)) == {request.request_id}
    assert files(after.path) == others
    assert not after.path.with_name("target").exists()

    async def again(ledger: Ledger) -> None:
        make(after.path.with_name("proxy.db.journal.9"))  # where the next file would be
        for _ in range(2 * MAX_FILE_BYTES // 50_000):
            filling = ask(of_project(max_budget=BUDGET))
            await ledger.admit(filling)
            ledger.settle(end(filling, 1, content="x" * 50_000))
        assert after.path.with_name("proxy.db.journal.10").exists()
        await ledger.admit(later)

    after.run(again)
    assert not after.path.with_name("target").exists()


def test_a_journal_of_another_version_stops_the_start_before_a_migration(
    store: Store, tmp_path: Path
) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)

    after = crashed(store, tmp_path, use)
    with after.elsewhere() as db:
        (applied,) = db.execute("select count(*) from _migrations").fetchone()
        db.execute("delete from _migrations where rowid = (select max(rowid) from _migrations)")
    (path,) = files(after.path)
    ours = path.read_bytes()
    older = ours.partition(b"\n")[2]
    header = journal_lines.header_of(ours.partition(b"\n")[0])
    assert header is not None
    data = orjson.dumps(["journal", 0, header.journal_id])
    path.write_bytes(b"%08x %b\n" % (crc32(data), data) + older)
    with pytest.raises(StoreError, match="left by another version"), owned_database(after.path):
        pass
    with after.elsewhere() as db:
        assert db.execute("select count(*) from _migrations").fetchone() == (applied - 1,)
    assert files(after.path) == [path]


def test_the_columns_of_a_row_belong_to_the_format() -> None:
    columns = HeldRow._fields, ExtendedRow._fields, SettledRow._fields
    assert (journal_lines.FORMAT, crc32(repr(columns).encode())) == (1, 4285499236)


def test_damaged_lines_are_counted_in_a_warning(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, damaged = ask(of_project(max_budget=BUDGET)), ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        for request in (kept, damaged):
            await ledger.admit(request)

    after = crashed(store, tmp_path, use)
    (path,) = files(after.path)
    path.write_bytes(path.read_bytes()[:-10] + journal_lines.FILLER)
    assert set(recovered(after)) == {kept.request_id}
    assert "has 1 incomplete or damaged lines" in caplog.text


def test_a_row_that_sqlite_cannot_hold_stops_no_start(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    great, usual = ask(of_project(max_budget=2**70), max_tokens=2**63), ask(of_project(max_budget=2**70))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(great)
        await ledger.admit(usual)

    after = crashed(store, tmp_path, use)
    assert set(recovered(after)) == {usual.request_id}
    assert f"could not be written to the ledger: {great.request_id}" in caplog.text


def test_a_settlement_that_sqlite_cannot_hold_is_booked_at_the_hold(store: Store, tmp_path: Path) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(request)
        ledger.settle(end(request, 2**63))

    after = crashed(store, tmp_path, use)
    assert recovered(after) == {request.request_id: ("ok", "estimated", 5, 5)}
    assert after.balance("project:web") == (5, 0)


def test_a_file_that_cannot_be_deleted_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "proxy.db"
    earlier = path.with_name("proxy.db.journal.1")
    earlier.mkdir()
    journal = Journal(path, "id", [earlier])
    journal.covered(journal.position, 1)
    for _ in range(2):
        journal.delete(1)
    assert caplog.text.count("cannot be deleted") == 1
    earlier.rmdir()
    journal.delete(1)
    journal.close(delete=True)
    assert files(path) == []


# --- windows that open -----------------------------------------------------------------------------------------


def test_events_while_a_window_opens_are_in_its_sums(store: Store) -> None:
    key, project = of_key(max_budget=BUDGET), of_project(max_budget=BUDGET, max_parallel_requests=9)

    async def use(ledger: Ledger) -> None:
        early, running, growing, late = (ask(key) for _ in range(4))
        for request in (early, running, growing):
            await ledger.admit(request)
        ledger.settle(end(early, 11))
        opening = asyncio.create_task(ledger.admit(ask(key, project)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the sums are asked for
        ledger.settle(end(running, 7))
        await ledger.admit(late)
        await ledger.extend(Extension(growing.request_id, (), 20, deployment("second"), ()))
        await opening
        assert await ledger.reconcile() == []
        limited = snapshot(projects={"web": Project("web", limits=project.limits)})
        standing = {one.scope.id: one for one in await ledger.standing(Key("key_a", "web"), limited)}
        assert standing["project:web"].running == 3

    store.run(use)
    assert store.balance("project:web") == store.balance("key:key_a") == (18, 5 + 5 + 25)


def test_a_cancelled_admission_that_reads_its_balance_is_settled(store: Store) -> None:
    request = ask(of_project(max_budget=BUDGET))

    async def use(ledger: Ledger) -> None:
        waiting = asyncio.create_task(ledger.admit(request))
        await asyncio.sleep(0)
        waiting.cancel()
        ledger.settle(end(request, 2, status="cancelled"))
        await asyncio.gather(waiting, return_exceptions=True)

    store.run(use)
    assert store.value("select status from requests") == "cancelled"
    assert store.balance("project:web") == (2, 0)


# --- disks ---------------------------------------------------------------------------------------------------


class FullDisk:
    """The kernel's limit on the size of files, which writing meets as a full disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self, room: int) -> None:
        import resource  # noqa: PLC0415

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._path.stat().st_size + room, most))

    def empty(self) -> None:
        import resource  # noqa: PLC0415

        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_journal_that_cannot_be_written_refuses_and_changes_nothing(store: Store, room: int) -> None:
    scope = of_project(max_budget=BUDGET, rpm_limit=100, max_parallel_requests=9)

    async def use(ledger: Ledger) -> tuple[str, str]:
        first, last = ask(scope), ask(scope)
        await ledger.admit(first)
        (path,) = files(store.path)
        disk = FullDisk(path)
        disk.fill(room)
        try:
            for _ in range(3):
                with pytest.raises(ProxyError) as refused:
                    await ledger.admit(ask(scope))
                assert (refused.value.status, refused.value.code) == (503, "accounting_unavailable")
            assert not ledger.healthy
        finally:
            disk.empty()
        assert ledger.healthy
        admission = await ledger.admit(last)
        assert admission.requests is not None
        assert admission.requests.remaining == 98
        return first.request_id, last.request_id

    admitted = store.run(use)
    with store.elsewhere() as db:
        assert [row for (row,) in db.execute("select request_id from requests order by seq")] == [*admitted]
    assert store.balance("project:web") == (0, 10)


def test_a_part_of_a_line_is_removed_or_ends_its_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    journal = Journal(path, "id")
    (file,) = files(path)
    size = file.stat().st_size
    line = journal_lines.line(Admitted(1, held_row(ask(), 5)))
    disk = FullDisk(file)
    disk.fill(20)
    try:
        with pytest.raises(OSError, match="only 20 of") as error:
            journal.write(line)
        assert error.value.errno != errno.EBADF
        assert file.stat().st_size == size
    finally:
        disk.empty()
    journal.write(line)
    assert [event.seq for event in journal_lines.events(file.read_bytes())] == [1]  # type: ignore[union-attr]
    journal.close(delete=True)
    assert files(path) == []


def test_requests_are_admitted_while_the_database_is_slow_but_not_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama_proxy.store.sqlite.write_behind.MAX_STALL_SECONDS", 0.5)

    async def use(ledger: Ledger) -> int:
        await ledger.admit(ask(of_project(max_budget=BUDGET)))
        await store.writer.barrier()
        admitted = 0
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            while ledger.healthy:
                await ledger.admit(ask(of_project(max_budget=BUDGET)))
                admitted += 1
                await asyncio.sleep(0.02)
            with pytest.raises(ProxyError) as refused:
                await ledger.admit(ask(of_project(max_budget=BUDGET)))
            assert refused.value.code == "accounting_unavailable"
            other.execute("rollback")
        async with asyncio.timeout(30):
            while not ledger.healthy:
                await asyncio.sleep(0.02)
        await ledger.admit(ask(of_project(max_budget=BUDGET)))
        assert await ledger.reconcile() == []
        return admitted

    assert store.run(use) > 5
