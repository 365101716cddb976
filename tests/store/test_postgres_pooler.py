"""The store through PgBouncer in transaction mode: nothing depends on a session of the server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import psycopg
import pytest

from codellama_proxy.limits.admission import Admission
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from codellama_proxy.store.reports import Filters
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases, PostgresServer, unprivileged
from tests.support.postgres_store import address_of
from tests.support.processes import free_port, until

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"


@pytest.fixture
def pooled(postgres_databases: Databases) -> Iterator[tuple[str, str]]:
    """Addresses of one database: through the pooler, and direct."""
    if not Path(PROGRAM).exists():
        pytest.skip("pgbouncer is not here")
    server = postgres_databases.server
    if not isinstance(server, PostgresServer):
        pytest.skip("the server has no socket that is known")
    direct = postgres_databases.empty()
    port = free_port()
    folder = server.folder
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={folder} user=postgres\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=any\npool_mode=transaction\ndefault_pool_size=3\nlogfile={folder}/pgbouncer.log\n"
        "ignore_startup_parameters=extra_float_digits\n"
    )
    process = subprocess.Popen([PROGRAM, "-q", folder / "pgbouncer.ini"], cwd=folder, **unprivileged())
    name = psycopg.conninfo.conninfo_to_dict(direct)["dbname"]
    address = f"postgresql://postgres@127.0.0.1:{port}/{name}?prepare=off&sslmode=disable"

    def answers() -> bool:
        try:
            connect(address_of(address)).close()
        except Exception:
            assert process.poll() is None
            return False
        return True

    try:
        until(answers, "the pooler answers")
        yield address, direct
    finally:
        process.terminate()
        process.wait(10)


def test_the_ledger_works_through_a_pooler_in_transaction_mode(pooled: tuple[str, str]) -> None:
    through, direct = map(address_of, pooled)
    scopes = (of_global(max_parallel_requests=25), of_project(max_budget=200), of_key(rpm_limit=1000))

    async def main() -> None:
        async with AsyncExitStack() as stack:
            opened = [stack.enter_context(shared_database(through, print)) for _ in range(3)]
            stores = [await stack.enter_async_context(database.open()) for database in opened]
            requests = [ask(*scopes) for _ in range(60)]
            answers = await asyncio.gather(
                *(stores[n % 3].ledger.admit(request) for n, request in enumerate(requests)),
                return_exceptions=True,
            )
            assert sum(isinstance(answer, Admission) for answer in answers) == 25
            for number, request in enumerate(requests):
                stores[number % 3].ledger.settle(end(request, 2))
            for store in stores:
                rows, total = await store.reports.logs(Filters(), 1, 100)
            assert (len(rows), total) == (25, 25)
            assert {row["status"] for row in rows} == {"ok"}

    asyncio.run(main())
    with closing(connect(direct)) as db:
        assert reconcile(db) == []
        assert db.native("select count(*) from workers").fetchone() == (0,)
