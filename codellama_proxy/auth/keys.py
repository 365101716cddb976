"""The server's view of the keys: whose secret it is, from memory, and the changes an administrator makes.

The memory is keyed by the whole hash of the whole secret and dropped at any change: by this process at once,
by another (the command line) within the half second between two looks at the file's version. A lookup that
began before a drop never writes its row back, so a revoked key cannot come to life again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard, TypeVar

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.store.audit import MASTER, AuditFilters
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.key_fields import SECRET_LENGTH, SECRET_START, KeyChange
from codellama_proxy.store.sqlite import audit
from codellama_proxy.store.sqlite import keys as key_rows
from codellama_proxy.store.sqlite.keys import SQL, from_row, not_found
from codellama_proxy.store.sqlite.reader import Reader, Row
from codellama_proxy.store.sqlite.writer import Writer

T = TypeVar("T")

CACHED = 10_000
CACHED_UNKNOWN = 1_000
WATCH_EVERY = 0.5

NO_KEY = (
    "No API key was provided: send it as 'Authorization: Bearer KEY', 'x-api-key: KEY' or 'api-key: KEY'."
)
MASTER_KEY = "This is the master key, which only administers: make a virtual key and use that here."

_Entry = tuple[Key, float | None]
"""A key, and when the secret that opened it ends."""


class Keys:
    """`authenticate` is for every request; everything else is for administrators."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        *,
        reports: Reader | None = None,
        master_key: str | None = None,
        clock: Callable[[], float] = time.time,
        cached: int = CACHED,
        cached_unknown: int = CACHED_UNKNOWN,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._reports = reports or reader
        """For what may take long, so that no lookup waits for it."""
        self._master_key = master_key
        self._clock = clock
        self._most = cached
        self._most_unknown = cached_unknown
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._unknown: OrderedDict[bytes, None] = OrderedDict()
        self._generation = 0

    # --- every request -------------------------------------------------------------------------------------

    async def authenticate(self, secret: str | None) -> Key:
        """Whose secret it is.

        Raises `ProxyError` 401: there is none, it is no key's, or the key is blocked or expired.
        """
        if secret is None:
            raise self._refusal(None)
        key = self.cached(secret)
        return key if key is not None else await self._look_up(secret)

    async def caller(self, secret: str | None, *, required: bool) -> Key | None:
        """Whose secret it is. `None` for none or an unknown one, where no key is `required`.

        Raises `ProxyError` 401 as `authenticate` does: blocked and expired keys are refused everywhere.
        """
        try:
            return await self.authenticate(secret)
        except ProxyError as error:
            if required or error.code != "invalid_api_key":
                raise
            return None

    def cached(self, secret: str | None) -> Key | None:
        """As `authenticate`, from memory alone: `None` if only the database knows."""
        if not _may_be_ours(secret):
            raise self._refusal(secret)
        hashed = hashlib.sha256(secret.encode()).digest()
        entry = self._known.get(hashed)
        if entry is not None:
            self._known.move_to_end(hashed)
            return require_usable(*entry, self._clock())
        if hashed in self._unknown:
            raise self._refusal(secret)
        return None

    def _refusal(self, secret: str | None) -> ProxyError:
        if secret is None:
            return ProxyError("invalid_api_key", NO_KEY)
        if self._master_key and hmac.compare_digest(self._master_key.encode(), secret.encode()):
            return ProxyError("invalid_api_key", MASTER_KEY)
        return invalid_api_key()

    async def _look_up(self, secret: str) -> Key:
        generation = self._generation
        hashed = hashlib.sha256(secret.encode()).digest()
        row = await self._card(hashed.hex())
        fresh = generation == self._generation
        if row is None:
            if fresh:
                _remember(self._unknown, hashed, None, self._most_unknown)
            raise self._refusal(secret)
        entry = (from_row(row), row[10])
        if fresh:
            _remember(self._known, hashed, entry, self._most)
        return require_usable(*entry, self._clock())

    async def _card(self, digest: str) -> Row | None:
        wanted = {"hash": digest}
        try:
            return self._reader.at_once(SQL["card_by_hash"], wanted)
        except StoreUnavailableError:  # locked for a moment, perhaps: to be waited for elsewhere
            return await _available(self._reader.one(SQL["card_by_hash"], wanted))

    def forget(self) -> None:
        """Drop what is in memory: something about the keys changed."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    async def watch(
        self, every: float = WATCH_EVERY, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Run for as long as the server: forget whenever another process wrote to the file."""
        seen: int | None = None
        while True:
            try:
                version = await self._writer.data_version()
            except StoreUnavailableError:
                version = None
            if version is None or version != seen:
                self.forget()
            seen = version
            await sleep(every)

    # --- administrators ------------------------------------------------------------------------------------

    async def create(self, change: KeyChange, by: str = MASTER) -> tuple[Key, str]:
        """A new key, and its secret for the only time. `by`: who it is recorded for, here and below."""
        return await self._write(lambda db: audit.create(db, by, change, self._clock()))

    async def update(self, key_id: str, change: KeyChange, by: str = MASTER) -> Key:
        return await self._write(lambda db: audit.update(db, by, key_id, change, self._clock()))

    async def block(self, key_id: str, by: str = MASTER) -> Key:
        return await self._write(lambda db: audit.block(db, by, key_id, True, self._clock()))

    async def unblock(self, key_id: str, by: str = MASTER) -> Key:
        return await self._write(lambda db: audit.block(db, by, key_id, False, self._clock()))

    async def rotate(self, key_id: str, overlap: float = 0.0, by: str = MASTER) -> tuple[Key, str]:
        """The same key with a new secret; the old one stays valid for `overlap` seconds."""
        return await self._write(lambda db: audit.rotate(db, by, key_id, overlap, self._clock()))

    async def delete(self, key_id: str, by: str = MASTER) -> Key:
        return await self._write(lambda db: audit.delete(db, by, key_id, self._clock()))

    async def changes(self, filters: AuditFilters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """Recorded changes of keys, the newest first, pages from 1; and how many there are."""
        sql, values = audit.page_query(filters, page, size)
        rows = await _available(self._reports.all(sql, tuple(values)))
        sql, values = audit.count_query(filters)
        total = await _available(self._reports.one(sql, tuple(values)))
        return [audit.entry(row) for row in rows], int(total[0]) if total else 0

    async def get(self, key_id: str) -> Key:
        row = await _available(self._reader.one(SQL["card_by_id"], {"key_id": key_id}))
        if row is None:
            raise not_found()
        return from_row(row)

    async def find(self, secret: str) -> Key:
        """The key that a secret belongs to, whatever its state."""
        row = await self._card(key_rows.digest(secret))
        if row is None:
            raise not_found()
        return from_row(row)

    async def page(self, page: int, size: int, project: str | None = None) -> tuple[tuple[Key, ...], int]:
        """Keys, the newest first, pages from 1; and how many there are."""
        asked = {"project": project, "size": size, "skip": (page - 1) * size}
        rows = await _available(self._reports.all(SQL["page_of_cards"], asked))
        total = await _available(self._reports.one(SQL["count_keys"], {"project": project}))
        return tuple(from_row(row) for row in rows), int(total[0]) if total else 0

    async def _write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await _available(self._writer.run(fn))
        finally:
            self.forget()


def _may_be_ours(secret: str | None) -> TypeGuard[str]:
    if secret is None or len(secret) != SECRET_LENGTH:
        return False
    return secret.startswith(SECRET_START) and secret.isascii()


def invalid_api_key() -> ProxyError:
    """Malformed or unknown: one body for both."""
    return ProxyError("invalid_api_key", "Incorrect API key provided.")


def require_usable(key: Key, secret_ends: float | None, now: float) -> Key:
    """The key, if it may call. Raises `ProxyError`: key_blocked, key_expired."""
    if key.blocked:
        raise ProxyError("key_blocked", "This API key is blocked.")
    if _over(key.expires_at, now) or _over(secret_ends, now):
        raise ProxyError("key_expired", "This API key has expired.")
    return key


def _over(end: float | None, now: float) -> bool:
    return end is not None and now >= end


def _remember(memory: OrderedDict[bytes, Any], hashed: bytes, entry: Any, most: int) -> None:
    memory[hashed] = entry
    if len(memory) > most:
        memory.popitem(last=False)


async def _available(reading: Awaitable[T]) -> T:
    try:
        return await reading
    except StoreUnavailableError as error:
        raise ProxyError("accounting_unavailable", "The store of keys cannot be used now.") from error
