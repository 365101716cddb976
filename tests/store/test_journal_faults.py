"""Faults around the journal: failing writes, no file descriptors, slow commits, clocks that jump.

Requests are refused as documented (503 accounting_unavailable), and every promised cent is booked once.
"""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.sqlite.journal import INFIX, MAX_FILE_BYTES, files
from codellama_proxy.store.sqlite.ledger import Ledger
from tests.store.test_journal import crashed, recovered
from tests.support.ledger_fixtures import NOW, Store, ask, end, of_key, of_project

HOUR = 3600.0
SCOPE = of_project(max_budget=10**6, rpm_limit=1000, max_parallel_requests=1000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "proxy.db")


class Disk:
    """Lets writes to journal files fail with an error of the kernel, after so many bytes of a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.code: int | None = None
        self.taken = 0
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        if self.code is None or INFIX not in str(Path(f"/proc/self/fd/{handle}").readlink()):
            return self._write(handle, data)
        if self.taken:
            return self._write(handle, data[: self.taken])
        raise OSError(self.code, os.strerror(self.code))


async def refused(ledger: Ledger, scope: ScopeLimits = SCOPE) -> None:
    with pytest.raises(ProxyError) as error:
        await ledger.admit(ask(scope))
    assert (error.value.status, error.value.code) == (503, "accounting_unavailable")


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("taken", [0, 30])
def test_a_failing_write_refuses_requests_and_loses_no_settlement(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, taken: int
) -> None:
    disk = Disk(monkeypatch)
    before, later = ask(SCOPE), ask(SCOPE)

    async def use(ledger: Ledger) -> None:
        await ledger.admit(before)
        await store.writer.barrier()
        disk.code, disk.taken = code, taken
        for _ in range(3):
            await refused(ledger)
        assert not ledger.healthy
        ledger.settle(end(before, 3))  # cannot be promised, so it is written at once
        await store.writer.barrier()
        disk.code = None
        assert ledger.healthy
        await ledger.admit(later)
        assert await ledger.reconcile() == []

    after = crashed(store, tmp_path, use)
    rows = recovered(after)
    assert {name: row[1:3] for name, row in rows.items()} == {
        before.request_id: ("exact", 3),
        later.request_id: ("crash_estimate", 5),
    }
    assert after.balance(SCOPE.id) == (8, 0)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """The process has as many open files as it may have."""
    import resource  # noqa: PLC0415

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(lowest)


def test_a_full_journal_file_grows_while_there_is_no_descriptor_for_the_next(
    store: Store, tmp_path: Path
) -> None:
    large, during, later = (ask(SCOPE) for _ in range(3))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(large)
        ledger.settle(end(large, 2, content='"' + "x" * MAX_FILE_BYTES + '"'))
        with no_descriptors():
            await ledger.admit(during)
            ledger.settle(end(during, 3))
            assert ledger.healthy
        assert len(files(store.path)) == 1
        await ledger.admit(later)
        assert len(files(store.path)) == 2

    after = crashed(store, tmp_path, use)
    assert {name: row[2] for name, row in recovered(after).items()} == {
        large.request_id: 2,
        during.request_id: 3,
        later.request_id: 5,
    }
    assert after.balance(SCOPE.id) == (10, 0)


def test_without_a_file_and_a_descriptor_requests_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a line that cannot be removed ends its file, and the next one cannot be opened."""
    disk = Disk(monkeypatch)
    first, later = ask(SCOPE), ask(SCOPE)

    def cut(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def use(ledger: Ledger) -> None:
        await ledger.admit(first)
        await store.writer.barrier()
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", cut)
            disk.code, disk.taken = errno.EIO, 30
            await refused(ledger)
        disk.code = None
        with no_descriptors():
            await refused(ledger)
            assert not ledger.healthy
        assert ledger.healthy
        await ledger.admit(later)
        ledger.settle(end(later, 4))
        assert await ledger.reconcile() == []

    store.run(use)
    assert store.balance(SCOPE.id) == (4, 5)


def test_requests_do_not_wait_for_a_commit_that_takes_seconds(store: Store, tmp_path: Path) -> None:
    asked = [ask(SCOPE) for _ in range(20)]

    async def use(ledger: Ledger) -> None:
        await ledger.admit(asked[0])
        await store.writer.barrier()
        slow = store.writer.submit(lambda _: time.sleep(2))
        began = time.monotonic()
        for request in asked[1:]:
            await ledger.admit(request)
            await asyncio.sleep(0.01)  # batches are posted behind the slow commit
            ledger.settle(end(request, 3))
        assert ledger.healthy
        assert not slow.done()
        assert time.monotonic() - began < 1.5
        store.copy_as_killed(tmp_path / "killed")
        await asyncio.wrap_future(slow)
        await store.writer.barrier()
        assert await ledger.reconcile() == []

    store.run(use)
    assert store.balance(SCOPE.id) == (19 * 3, 5)
    killed = Store(tmp_path / "killed" / "proxy.db")
    assert [row[2] for row in recovered(killed).values()] == [5, *[3] * 19]
    assert killed.balance(SCOPE.id) == (19 * 3 + 5, 0)


@pytest.mark.parametrize("jumps", [(HOUR,), (-HOUR,), (HOUR, 0.0), (-HOUR, 0.0), (HOUR, -HOUR, HOUR)])
@pytest.mark.parametrize("duration", ["hour", "5h", None])
def test_a_clock_that_jumps_by_an_hour_loses_and_doubles_nothing(
    store: Store, tmp_path: Path, jumps: tuple[float, ...], duration: str | None
) -> None:
    scopes = (
        of_project(max_budget=10**6, budget_duration=duration),
        of_key(max_budget=10**6, budget_duration="day", rpm_limit=4),
    )
    settled: dict[str, Any] = {}

    async def use(ledger: Ledger) -> None:
        held = ask(*scopes)
        await ledger.admit(held)
        for number, jump in enumerate(jumps, 1):
            store.now = NOW + jump
            request = ask(*scopes, created_at=store.now)
            admission = await ledger.admit(request)
            assert admission.requests is not None, "a jump locks no rate"
            ledger.settle(end(request, number))
            settled[request.request_id] = number
        ledger.settle(end(held, 100))
        settled[held.request_id] = 100

    after = crashed(store, tmp_path, use)
    after.now = store.now
    assert {name: row[2] for name, row in recovered(after).items()} == settled
    assert after.balance("key:key_a") == (sum(settled.values()), 0)
