"""`interfaces.UiSessions`: sign-ins to the dashboard."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import MAX_UI_SESSIONS, UiSession
from codellama_proxy.store.sql import queries
from codellama_proxy.store.sqlite.reader import Reader
from codellama_proxy.store.sqlite.writer import Writer

SQL = queries.load("ui_sessions")


class UiSessions:
    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def add(self, id_hash: str, session: UiSession) -> None:
        row = {**session._asdict(), "secure": int(session.secure), "id_hash": id_hash}
        trimmed = {"credential": session.secret_hash or "", "most": MAX_UI_SESSIONS}

        def add(db: sqlite3.Connection) -> None:
            db.execute(SQL["add"], row)
            db.execute(SQL["trim"], trimmed)

        await self._writer.run(add)

    async def find(self, id_hash: str) -> UiSession | None:
        wanted = {"id_hash": id_hash}
        try:
            row = self._reader.at_once(SQL["find"], wanted)
        except StoreUnavailableError:  # possibly locked; the other connection waits for the lock
            row = await self._reader.one(SQL["find"], wanted)
        return None if row is None else UiSession(row[0], row[1], bool(row[2]), row[3], row[4])

    def seen(self, id_hash: str, at: float) -> None:
        with suppress(StoreUnavailableError):  # closed: the session counts as unused since the time before
            self._writer.post(lambda db: db.execute(SQL["seen"], {"id_hash": id_hash, "seen_at": at}))

    async def end(self, id_hash: str) -> None:
        await self._writer.run(lambda db: db.execute(SQL["end"], {"id_hash": id_hash}).rowcount)

    async def forget(self, *, seen_before: float, created_before: float) -> None:
        wanted = {"seen_before": seen_before, "created_before": created_before}
        await self._writer.run(lambda db: db.execute(SQL["forget"], wanted).rowcount)
