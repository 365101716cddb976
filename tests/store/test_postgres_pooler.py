"""The store through PgBouncer in transaction mode: nothing depends on a session of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import psycopg
import pytest

from codellama_proxy.limits.admission import Admission
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from codellama_proxy.store.postgres.standings import reconcile
from codellama_proxy.store.reports import Filters
from tests.support.ledger_fixtures import ask, end, of_global, of_key, of_project
from tests.support.postgres import Databases, PostgresServer, unprivileged
from tests.support.postgres_store import address_of
from tests.support.processes import free_port, until

PROGRAM = os.environ.get("PROXY_TEST_PGBOUNCER") or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
KEEPS_STATEMENTS = (1, 21)
"""The first version that keeps the prepared statements of its clients apart."""
Pooled = tuple[str, str]


def version() -> tuple[int, ...]:
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split("."))


@pytest.fixture(params=["prepare=off", "none kept", "kept"])
def pooled(
    postgres_databases: Databases, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[Pooled]:
    """Addresses of one database: through the pooler, and direct."""
    if not Path(PROGRAM).exists():
        pytest.skip("pgbouncer is not here")
    statements = ""
    if version() >= KEEPS_STATEMENTS:
        statements = f"max_prepared_statements={50 if request.param == 'kept' else 0}\n"
    elif request.param == "kept":
        pytest.skip("this pgbouncer keeps no prepared statements")
    server = postgres_databases.server
    if not isinstance(server, PostgresServer):
        pytest.skip("the server has no socket that is known")
    direct = postgres_databases.empty()
    port = free_port()
    folder = server.folder
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={folder} user=postgres\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=any\npool_mode=transaction\ndefault_pool_size=3\nlogfile={folder}/pgbouncer.log\n"
        f"ignore_startup_parameters=extra_float_digits\n{statements}"
    )
    process = subprocess.Popen([PROGRAM, "-q", folder / "pgbouncer.ini"], cwd=folder, **unprivileged())
    name = psycopg.conninfo.conninfo_to_dict(direct)["dbname"]
    prepare = "prepare=off&" if request.param == "prepare=off" else ""
    address = f"postgresql://postgres@127.0.0.1:{port}/{name}?{prepare}sslmode=disable"

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
        said = [record.getMessage() for when in ("setup", "call") for record in caplog.get_records(when)]
        told = any("keeps no prepared statements" in line for line in said)
        assert told == (request.param == "none kept")
    finally:
        process.terminate()
        process.wait(10)


def test_the_ledger_works_through_a_pooler_in_transaction_mode(pooled: Pooled) -> None:
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


def test_requests_and_changes_in_turns_mix_no_statements(pooled: Pooled) -> None:
    """Prepared statements of one client would be found by another one, under the same name."""
    through, direct = map(address_of, pooled)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            opened = [stack.enter_context(shared_database(through, print)) for _ in range(3)]
            stores = [await stack.enter_async_context(database.open()) for database in opened]
            for number in range(30):
                store, other = stores[number % 3], stores[(number + 1) % 3]
                request = ask(of_project(max_budget=10**6), of_key(rpm_limit=1000))
                _, (key, _), _ = await asyncio.gather(
                    store.ledger.admit(request),
                    other.keys.create(KeyChange({"project": "web"}), "cli", float(number)),
                    other.outbox.add("score", request.request_id, b"{}"),
                )
                store.ledger.settle(end(request, number))
                await other.keys.block(key.key_id, True, "cli", float(number))
                assert (await store.keys.get(key.key_id)).blocked
                assert (await other.reports.spend(("project",), Filters()))["total_requests"] == number + 1
            for store in stores:
                await store.upkeep.roll_up()

    asyncio.run(main())
    with closing(connect(direct)) as db:
        assert reconcile(db) == []
        assert db.native("select count(*), sum(cost_nanos) from settled").fetchone() == (30, sum(range(30)))
        assert db.native("select count(*), sum(blocked) from keys").fetchone() == (30, 30)
