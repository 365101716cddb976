"""A server whose disk is full: nothing is admitted, no settlement is lost, and requests are served again afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.store.interfaces import Store
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from tests.support.ledger_fixtures import ask, end, of_project
from tests.support.postgres import PostgresServer, own_programs
from tests.support.postgres_store import address_of

BUDGET = of_project(max_budget=10**9)
DISK = "160m"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system."""
    place = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    place.chmod(0o755)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        place.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


@pytest.fixture
def server(disk: Path) -> Iterator[PostgresServer]:
    one = PostgresServer(own_programs(), "max_wal_size=64MB", "wal_recycle=off", "fsync=on", place=disk)
    try:
        yield one
    finally:
        one.remove()


def fill(disk: Path) -> Path:
    path = disk / "filler"
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    return path


def starts_again(server: PostgresServer) -> None:
    """A server that could not write its log has ended, or restarts."""
    with suppress(AssertionError):
        server.wait_until_it_answers()
        return
    server.start()


def test_a_full_disk_refuses_requests_and_loses_no_settlement(server: PostgresServer, disk: Path) -> None:
    address = address_of(server.address())
    booked: dict[str, int] = {}

    async def main() -> None:
        with shared_database(address, print) as database:
            async with database.open() as store:
                running = [ask(BUDGET) for _ in range(5)]
                for request in running:
                    await store.ledger.admit(request)
                filler = fill(disk)
                refused = await until_refused(store)
                assert refused.code == "accounting_unavailable"
                for cost, request in enumerate(running):
                    store.ledger.settle(end(request, cost))
                    booked[request.request_id] = cost
                await asyncio.sleep(1)
                with pytest.raises(ProxyError, match="cannot be used"):
                    await store.ledger.admit(ask(BUDGET))
                filler.unlink()
                await asyncio.to_thread(starts_again, server)
                await until_served(store)
        assert "No space left on device" in (server.folder / "log").read_text(errors="replace")
        with closing(connect(address)) as db:
            assert reconcile(db) == []
            rows = dict(
                db.native("select request_id, cost_nanos from settled where status = 'ok'").fetchall()
            )
            assert rows.items() >= booked.items()
            assert db.native("select count(*) from held").fetchone() == (0,)

    async def until_refused(store: Store) -> ProxyError:
        """Large requests, each with content, until one is refused."""
        for cost in range(2000):
            request = ask(BUDGET)
            try:
                await store.ledger.admit(request)
            except ProxyError as error:
                return error
            content = os.urandom(50_000).hex()
            store.ledger.settle(end(request, cost, content=content))
            booked[request.request_id] = cost
        raise AssertionError("the disk is not full")

    async def until_served(store: Store) -> None:
        async with asyncio.timeout(60):
            while True:
                request = ask(BUDGET)
                try:
                    await store.ledger.admit(request)
                except ProxyError:
                    await asyncio.sleep(0.1)
                else:
                    store.ledger.settle(end(request, 1))
                    return

    asyncio.run(main())
