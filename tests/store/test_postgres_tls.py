"""Connections to a database server by TLS: `sslmode=verify-full` checks the certificate's authority and its host."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.postgres.database import shared_database
from codellama_proxy.store.postgres.session import connect
from tests.support.ledger_fixtures import ask, end, of_project
from tests.support.postgres import NOBODY, QUICK, PostgresServer, own_programs
from tests.support.postgres_store import address_of
from tests.support.processes import free_port

PASSWORD = "hunter2-of-the-database"
HBA = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True, timeout=60)


def certificates(folder: Path, name: str, host: str) -> None:
    """An authority `NAME-ca.crt`, and `NAME.crt` and `NAME.key` of a host, signed by it."""
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = f"{name}-ca"
    openssl(
        *("req", "-x509", *new_key, "-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-subj", f"/CN={ca}"),
        cwd=folder,
    )
    openssl(
        "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}", cwd=folder
    )
    openssl(
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial"),
        *("-out", f"{name}.crt"),
        cwd=folder,
    )


class TlsServer:
    def __init__(self, server: PostgresServer, port: int, folder: Path) -> None:
        self.server = server
        self.port = port
        self.folder = folder

    def address(self, host: str, mode: str, authority: str = "right-ca") -> str:
        options = f"sslmode={mode}&sslrootcert={self.folder}/{authority}.crt&hostaddr=127.0.0.1"
        return f"postgresql://postgres:{PASSWORD}@{host}:{self.port}/postgres?{options}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    server = PostgresServer(own_programs(), *QUICK, port=port)
    try:
        with psycopg.connect(server.address(), autocommit=True) as db:
            if db.execute("show ssl_library").fetchone() == ("",):
                pytest.skip("this server was built without TLS")
            db.execute(f"alter role postgres password '{PASSWORD}'".encode())
        server.stop()
        certificates(folder, "right", "db.test")
        certificates(folder, "wrong", "db.test")
        data = server.folder / "data"
        for name in ("right.crt", "right.key"):
            (data / name).write_bytes((folder / name).read_bytes())
            (data / name).chmod(0o600)
            if os.getuid() == 0:
                os.chown(data / name, NOBODY, NOBODY)
        (data / "pg_hba.conf").write_text(HBA)
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write("ssl = on\nssl_cert_file = 'right.crt'\nssl_key_file = 'right.key'\n")
        server.listen("127.0.0.1")
        server.start()
        yield TlsServer(server, port, folder)
    finally:
        server.remove()


def test_a_store_works_by_verified_tls(tls: TlsServer) -> None:
    async def main() -> None:
        with shared_database(address_of(tls.address("db.test", "verify-full")), print) as database:
            async with database.open() as store:
                request = ask(of_project(max_budget=10))
                await store.ledger.admit(request)
                store.ledger.settle(end(request, 1))
                assert await store.reports.request(request.request_id) is not None
                with psycopg.connect(tls.server.address()) as db:
                    row = db.execute(
                        "select count(*) filter (where ssl), count(*)"
                        " from pg_stat_ssl join pg_stat_activity using (pid)"
                        " where application_name = 'codellama-proxy'"
                    ).fetchone()
                assert row is not None
                assert row[0] == row[1] > 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "mode", "authority", "reason"),
    [
        ("db.test", "verify-full", "wrong-ca", "certificate verify failed"),
        ("other.test", "verify-full", "right-ca", "does not match host name"),
        ("db.test", "disable", "right-ca", "no pg_hba.conf entry"),
    ],
)
def test_a_server_that_cannot_be_verified_is_not_used(
    tls: TlsServer, host: str, mode: str, authority: str, reason: str
) -> None:
    with pytest.raises(StoreUnavailableError, match=reason) as refused:
        connect(address_of(tls.address(host, mode, authority)))
    assert PASSWORD not in str(refused.value)


def test_the_right_authority_is_enough_without_the_name_of_the_host(tls: TlsServer) -> None:
    with closing(connect(address_of(tls.address("other.test", "verify-ca")))) as db:
        assert db.native("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)


def test_a_wrong_password_is_reported_without_any_password(tls: TlsServer) -> None:
    address = tls.address("db.test", "verify-full").replace(PASSWORD, "another-secret")
    with pytest.raises(StoreUnavailableError, match="password authentication failed") as refused:
        connect(address_of(address))
    assert "another-secret" not in str(refused.value)
