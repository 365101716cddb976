"""A PostgreSQL server on a loopback port that asks for a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from tests.support.postgres import QUICK, PostgresServer, own_programs
from tests.support.processes import free_port

ROLE = "proxy"
PASSWORD = "Tr0ub4dor+of/the=server"
ENCODED = "Tr0ub4dor%2Bof%2Fthe%3Dserver"
"""The same in an address."""
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


class PasswordServer(NamedTuple):
    postgres: PostgresServer
    port: int

    def address(self, database: str, password: str = ENCODED, **more: Any) -> str:
        options = "&".join(f"{name}={value}" for name, value in more.items())
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{self.port}/{database}?{options}"

    def run(self, statement: str, database: str = "postgres") -> None:
        """As the superuser, by the socket."""
        with psycopg.connect(self.postgres.address(database), autocommit=True) as db:
            db.execute(statement.encode())


@contextmanager
def password_server() -> Iterator[PasswordServer]:
    """Skips the test, or fails it if a server is required, where there is none that can be configured."""
    port = free_port()
    server = PasswordServer(PostgresServer(own_programs(), *QUICK, port=port), port)
    try:
        server.run(f"create role {ROLE} login createdb password '{PASSWORD}'")
        server.postgres.stop()
        (server.postgres.folder / "data" / "pg_hba.conf").write_text(HBA)
        server.postgres.listen("127.0.0.1")
        server.postgres.start()
        yield server
    finally:
        server.postgres.remove()
