"""Connections to a PostgreSQL server. Only this module and `round_trip` know the driver."""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from codellama_proxy.store.errors import StoreError, StoreUnavailableError
from codellama_proxy.store.location import ServerAddress
from codellama_proxy.store.postgres.dialect import translated
from codellama_proxy.store.sql.queries import Rows

try:
    import psycopg
    from psycopg.adapt import Dumper, Loader
    from psycopg.conninfo import conninfo_to_dict

    from codellama_proxy.store.postgres.round_trip import RoundTrip, Wire
except ImportError:
    raise StoreError(
        "a postgresql:// address needs the package psycopg: pip install 'codellama-proxy[postgres]'"
    ) from None

MINIMUM_VERSION = 140000
CONNECT_SECONDS = 3
"""For a server that does not answer, unless the address has a `connect_timeout`."""
WAIT_SECONDS = 60.0
"""How long a start waits for a server that cannot be reached."""
FIRST_DELAY_SECONDS, MAX_DELAY_SECONDS = 0.05, 2.0
KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 6000,
}
"""Seconds, and milliseconds for the last: how soon a connection to a machine that is gone is given up."""
IDLE_SECONDS = 1
"""How long a transaction may wait for its process, which may be frozen, while others wait for its locks."""
STREAMED_ROWS = 2000
PREPARE_AFTER = 2
MAX_PREPARED = 500

_LIMIT = b"""select set_config('statement_timeout', %s, true), set_config('transaction_read_only', 'on', true),
    set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
    set_config('work_mem', '32MB', true)"""
"""Compiling a statement over all partitions takes longer than running it, reports leave the other cores to the ledger,
and a hundred thousand groups need no disk."""

ServerError = psycopg.Error

log = logging.getLogger(__name__)
# The driver's own lines may contain an address.
for name in ("psycopg", "psycopg.pool"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class _WholeNumber(Loader):
    """Sums of bigint are numeric; they are integers."""

    def load(self, data: bytes | bytearray | memoryview) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text or b"N" in text else int(text)


class _Text(Dumper):
    """PostgreSQL stores no NUL, and only valid Unicode."""

    def dump(self, obj: str) -> bytes:
        return obj.replace("\0", "\ufffd").encode("utf-8", "replace")


class PostgresSession:
    """One connection as a `queries.Session`; in autocommit mode outside of `transaction`."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], *, prepare: bool) -> None:
        self._connection = connection
        self._wire = Wire(connection, prepare=prepare)

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = (), /) -> Rows:
        """Run a statement in the dialect of `store.sql`. Raises `ServerError`."""
        return self._connection.execute(translated(sql).encode(), values)

    def native(self, sql: str, values: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows:
        """Run a statement as it is, with `%s` or `%(name)s`; prepared after a few times."""
        return self._connection.execute(sql.encode(), values)

    def rows(
        self, sql: str, values: Sequence[Any] | Mapping[str, Any], seconds: int
    ) -> list[tuple[Any, ...]]:
        """All rows of a statement in the dialect of `store.sql` that only reads, stopped after some seconds.

        One round trip. The limit ends with the transaction: behind a pooler others use the session next.
        """
        with self._connection.pipeline(), self._connection.transaction():
            self._connection.execute(_LIMIT, (f"{seconds}s",))
            found = self._connection.execute(translated(sql).encode(), values)
        return found.fetchall()

    def cancel(self) -> None:
        """Stop the statement that another thread runs on this connection. Never fails: the limit of time remains."""
        with suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=CONNECT_SECONDS)

    def script(self, sql: str) -> None:
        """Run several statements without values."""
        self._connection.execute(sql.encode(), prepare=False)

    def stream(self, sql: str) -> Iterator[Sequence[Any]]:
        """The rows of a query in the dialect of `store.sql`, some at a time. Only in a transaction."""
        with self._connection.cursor("stream") as cursor:
            cursor.itersize = STREAMED_ROWS
            cursor.execute(translated(sql).encode())
            yield from cursor

    def copy_in(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run a `copy … from stdin` with rows of values; returns their number."""
        count = 0
        with self._connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for count, row in enumerate(rows, 1):  # noqa: B007 - counts
                copy.write_row(row)
        return count

    def round_trip(self) -> RoundTrip:
        """For statements that are sent together."""
        return RoundTrip(self._wire)

    @contextmanager
    def transaction(self, idle_seconds: int | None = IDLE_SECONDS) -> Iterator[None]:
        """A transaction, rolled back on any exception.

        The server ends it, and frees its locks, when it waits that long for this process; `None`: never.
        """
        try:
            with self._connection.transaction():
                if idle_seconds is not None:
                    limit = f"set local idle_in_transaction_session_timeout = '{idle_seconds}s'"
                    self._connection.execute(limit.encode(), prepare=False)
                yield
        except BaseException:
            self._wire.forget()  # the driver deallocates everything after a roll-back
            raise

    def roll_back(self) -> None:
        """End a transaction after an error.

        Prepared statements are forgotten, here and by the driver.
        """
        self._wire.forget()
        self._connection.rollback()

    @property
    def usable(self) -> bool:
        return not self._connection.closed and not self._connection.broken

    def close(self) -> None:
        self._connection.close()


def about_values(error: BaseException) -> bool:
    """Whether the values of a statement are the cause: another statement may succeed."""
    return isinstance(error, psycopg.errors.IntegrityError | psycopg.errors.DataError)


def about_statement(error: BaseException) -> bool:
    """Whether the server refuses this statement: a missing table or privilege, perhaps."""
    return isinstance(error, psycopg.ProgrammingError)


def connect(address: ServerAddress) -> PostgresSession:
    """A connection. Raises `StoreUnavailableError` if the server cannot be reached, `StoreError` if it is too old."""
    settings: dict[str, Any] = {"application_name": "codellama-proxy", **KEEPALIVES}
    password = address.password()
    if password is not None:
        settings["password"] = password
    try:
        if "connect_timeout" not in conninfo_to_dict(address.url):
            settings["connect_timeout"] = CONNECT_SECONDS
        connection = psycopg.connect(address.url, autocommit=True, prepare_threshold=None, **settings)
        prepare = address.prepare and _may_prepare(connection, address)
    except psycopg.ProgrammingError:  # the message may repeat what was given
        raise StoreError(f"the address of the database {address} has an option that is not known") from None
    except psycopg.Error as error:
        raise StoreUnavailableError(
            f"cannot connect to the database {address}: {sentence(address, error)}"
        ) from None
    connection.prepare_threshold = PREPARE_AFTER if prepare else None
    connection.prepared_max = MAX_PREPARED
    connection.adapters.register_loader("numeric", _WholeNumber)
    connection.adapters.register_dumper(str, _Text)
    version = connection.info.server_version
    if version < MINIMUM_VERSION:
        connection.close()
        raise StoreError(f"the database {address} is PostgreSQL {version // 10000}; 14 or newer is needed")
    return PostgresSession(connection, prepare=prepare)


def _may_prepare(connection: psycopg.Connection[Any], address: ServerAddress) -> bool:
    """Whether prepared statements are this connection's own: not behind a pooler that passes on their names.

    There another client may have given the same name to another statement. A pooler gives its own process number; one
    that keeps statements apart gives them names of its own.
    """
    row = connection.execute(b"select pg_backend_pid()").fetchone()
    if row is not None and row[0] == connection.info.backend_pid:
        return True
    name = f"probe_{secrets.token_hex(8)}".encode()
    with connection.transaction():
        connection.pgconn.prepare(name, b"select 1")
        passed_on = connection.execute(
            b"select 1 from pg_prepared_statements where name = %s", (name.decode(),)
        ).fetchone()
        if passed_on is not None:
            connection.execute(b"deallocate " + name)
    if passed_on is not None:
        _tell_unprepared(str(address))
    return passed_on is None


@cache
def _tell_unprepared(address: str) -> None:
    """Once in a process."""
    log.warning(
        "the pooler of the database %s keeps no prepared statements: using none, which is slower", address
    )


def wait_for(
    address: ServerAddress,
    say: Callable[[str], None],
    *,
    within: float = WAIT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> PostgresSession:
    """A connection, waiting for a server that is not there yet. Raises `StoreError`."""
    deadline, delay, said = clock() + within, FIRST_DELAY_SECONDS, False
    while True:
        try:
            return connect(address)
        except StoreUnavailableError as error:
            if clock() >= deadline:
                raise StoreError(str(error)) from None
            if not said:
                say(f"{error}; waiting up to {within:g} s for it")
                said = True
        sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - not for secrets
        delay = min(delay * 2, MAX_DELAY_SECONDS)


def sentence(address: ServerAddress, error: BaseException) -> str:
    """The first line of an error without the password."""
    lines = [line.strip() for line in address.masked(str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


@contextmanager
def as_store_error(address: ServerAddress) -> Iterator[None]:
    """Raises `StoreError` for every error of the driver."""
    try:
        yield
    except psycopg.Error as error:
        raise StoreError(f"cannot use the database {address}: {sentence(address, error)}") from None
