"""One SQLite file, owned by this server process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import KeptConfiguration, Reload, Store
from codellama_proxy.store.sql import stored_configurations
from codellama_proxy.store.sql.overviews import OverviewQueries
from codellama_proxy.store.sql.request_search import RequestSearch
from codellama_proxy.store.sqlite import installation
from codellama_proxy.store.sqlite.bounded_reads import MAX_SEARCH_SECONDS, BoundedReads
from codellama_proxy.store.sqlite.ledger import Ledger
from codellama_proxy.store.sqlite.migrations import prepare, recognize
from codellama_proxy.store.sqlite.outbox import Outbox
from codellama_proxy.store.sqlite.ownership import Owned, in_use, owned
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.replay import check
from codellama_proxy.store.sqlite.stored_keys import StoredKeys
from codellama_proxy.store.sqlite.ui_sessions import UiSessions
from codellama_proxy.store.sqlite.writer import Writer

REPORT_SECONDS = 30.0
"""After which a statement of `/spend` or `/spend/logs` is stopped."""


@contextmanager
def owned_database(path: Path) -> Iterator[Database]:
    """The database, created or migrated if need be. Raises `StoreError` if another server owns it."""
    if path.exists() and not (path.is_file() and in_use(path)):
        recognize(path)  # do not create a lock file beside a file of another program
    with owned(path) as file:
        check(path)
        prepare(path)
        yield Database(path, file)


class Database:
    """`interfaces.Database`."""

    def __init__(self, path: Path, file: Owned) -> None:
        self._path = path
        self._file = file

    def digest_key(self) -> bytes:
        return installation.digest_key(self._path)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        async with AsyncExitStack() as stack:
            writer = Writer(self._path, self._file.lost)
            reader = Reader(self._path)
            reports, sums = Reader(self._path, REPORT_SECONDS), Reader(self._path, REPORT_SECONDS)
            ledger = Ledger(writer, reports, sums)
            writer.start()
            stack.callback(ledger.delete_journal)
            stack.push_async_callback(asyncio.to_thread, writer.close)
            searched = Reader(self._path, MAX_SEARCH_SECONDS)
            for opened in (reader, reports, sums, searched):
                await opened.open()
                stack.push_async_callback(opened.close)
            keys = StoredKeys(writer, reader, reports)
            await ledger.open()
            stack.push_async_callback(ledger.close)
            read = BoundedReads(writer, searched)
            yield Store(
                keys=keys,
                audit=keys,
                ledger=ledger,
                reports=ledger,
                searches=RequestSearch(read),
                overviews=OverviewQueries(read),
                upkeep=ledger,
                outbox=Outbox(writer, reader),
                configurations=Configurations(writer, read),
                ui_sessions=UiSessions(writer, reader),
                health=ledger,
            )


class Configurations:
    """`interfaces.Configurations`."""

    def __init__(self, writer: Writer, read: BoundedReads) -> None:
        self._writer = writer
        self._read = read

    def keep(self, kept: KeptConfiguration | None) -> None:
        with suppress(StoreUnavailableError):  # closed: the next start has the file, or an older copy
            self._writer.post(lambda db: stored_configurations.keep(db, kept))

    def record(self, reload: Reload) -> None:
        with suppress(StoreUnavailableError):  # closed
            self._writer.post(lambda db: stored_configurations.record(db, reload))

    async def reloads(self) -> list[Reload]:
        rows = await self._read(stored_configurations.SQL["reloads"], ())
        return [stored_configurations.reload_of(row) for row in rows]
