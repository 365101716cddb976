"""Virtual keys of the server: authentication from memory, expiry, and the changes an administrator makes.

The cache is keyed by the SHA-256 of the whole secret. A change by this process removes the changed key from it at once;
a change by another one (the command line) clears it within a second. A lookup that began before either does not
write to the cache, so a revoked key cannot become valid again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeGuard, TypeVar

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.core.types import Key
from codellama_proxy.store import interfaces
from codellama_proxy.store.audit import MASTER
from codellama_proxy.store.errors import StoreUnavailableError
from codellama_proxy.store.interfaces import StoredKey
from codellama_proxy.store.key_fields import SECRET_LENGTH, SECRET_START, KeyChange, not_found

T = TypeVar("T")

MAX_CACHED_KEYS = 100_000
MAX_CACHED_UNKNOWN = 1_000

NO_KEY = (
    "No API key was provided: send it as 'Authorization: Bearer KEY', 'x-api-key: KEY' or 'api-key: KEY'."
)
MASTER_KEY = "This is the master key, which only administers: make a virtual key and use that here."


class Keys:
    """Authenticates requests, and changes keys for administrators."""

    def __init__(
        self,
        store: interfaces.Keys,
        *,
        master_key: str | None = None,
        clock: Callable[[], float] = time.time,
        cached: int = MAX_CACHED_KEYS,
        cached_unknown: int = MAX_CACHED_UNKNOWN,
    ) -> None:
        self._store = store
        self._master_key = master_key
        self._clock = clock
        self._most = cached
        self._most_unknown = cached_unknown
        self._known: OrderedDict[bytes, StoredKey] = OrderedDict()
        self._unknown: OrderedDict[bytes, None] = OrderedDict()
        self._generation = 0

    # --- every request -------------------------------------------------------------------------------------

    async def authenticate(self, secret: str | None) -> Key:
        """The key that the secret belongs to.

        Raises `ProxyError` 401: no secret, an unknown one, or the key is blocked or expired.
        """
        if secret is None:
            raise self._refusal(None)
        key = self.cached(secret)
        return key if key is not None else await self._look_up(secret)

    async def caller(self, secret: str | None, *, required: bool) -> Key | None:
        """The key that the secret belongs to; `None` without a known secret if no key is `required`.

        Raises `ProxyError` 401 as `authenticate` does: blocked and expired keys and the master key are always refused.
        """
        try:
            return self.cached(secret) or await self.authenticate(secret)
        except ProxyError as error:
            if required or error.code != "invalid_api_key" or self._is_master(secret):
                raise
            return None

    def cached(self, secret: str | None) -> Key | None:
        """As `authenticate`, from the cache alone; `None` if the database has to be asked."""
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

    async def of_hash(self, secret_hash: str) -> Key:
        """The key with a secret of this hexadecimal SHA-256. Raises `ProxyError` 401 as `authenticate` does."""
        hashed = bytes.fromhex(secret_hash)
        entry = self._known.get(hashed)
        if entry is None:
            generation = self._generation
            entry = await _available(self._store.by_hash(secret_hash))
            if entry is None:
                raise invalid_api_key()
            if generation == self._generation:
                _remember(self._known, hashed, entry, self._most)
        return require_usable(*entry, self._clock())

    def _refusal(self, secret: str | None) -> ProxyError:
        if secret is None:
            return ProxyError("invalid_api_key", NO_KEY)
        return ProxyError("invalid_api_key", MASTER_KEY) if self._is_master(secret) else invalid_api_key()

    def _is_master(self, secret: str | None) -> bool:
        if not self._master_key or secret is None:
            return False
        return hmac.compare_digest(self._master_key.encode(), secret.encode())

    async def _look_up(self, secret: str) -> Key:
        generation = self._generation
        hashed = hashlib.sha256(secret.encode()).digest()
        found = await _available(self._store.by_hash(hashed.hex()))
        fresh = generation == self._generation
        if found is None:
            if fresh:
                _remember(self._unknown, hashed, None, self._most_unknown)
            raise self._refusal(secret)
        if fresh:
            _remember(self._known, hashed, found, self._most)
        return require_usable(*found, self._clock())

    def forget(self) -> None:
        """Clear the cache: any key may have changed."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Run until cancelled: clear the cache when another process wrote to the database."""
        seen: int | None = None
        while True:
            try:
                version = await self._store.version()
            except StoreUnavailableError:
                version = None
            if version is None or version != seen:
                self.forget()
            seen = version
            await sleep(self._store.watch_seconds)

    # --- administrators ------------------------------------------------------------------------------------

    async def create(self, change: KeyChange, by: str = MASTER, form: str | None = None) -> tuple[Key, str]:
        """A new key and its secret, which is not stored. `by`: the actor in the audit, here and below.

        `form`: the token of the form that was sent. Raises `ProxyError` 400 if it was used before.
        """
        return await self._change(self._store.create(change, by, self._clock(), form))

    async def update(self, key_id: str, change: KeyChange, by: str = MASTER) -> Key:
        return await self._change(self._store.update(key_id, change, by, self._clock()), key_id)

    async def block(self, key_id: str, by: str = MASTER) -> Key:
        return await self._change(self._store.block(key_id, True, by, self._clock()), key_id)

    async def unblock(self, key_id: str, by: str = MASTER) -> Key:
        return await self._change(self._store.block(key_id, False, by, self._clock()), key_id)

    async def rotate(
        self, key_id: str, overlap: float = 0.0, by: str = MASTER, form: str | None = None
    ) -> tuple[Key, str]:
        """The same key with a new secret; the old one stays valid for `overlap` seconds. `form`: as in `create`."""
        return await self._change(self._store.rotate(key_id, overlap, by, self._clock(), form), key_id)

    async def delete(self, key_id: str, by: str = MASTER) -> Key:
        return await self._change(self._store.delete(key_id, by, self._clock()), key_id)

    async def get(self, key_id: str) -> Key:
        return await _available(self._store.get(key_id))

    async def find(self, secret: str) -> Key:
        """The key that a secret belongs to, usable or not. Raises `ProxyError` 404."""
        found = await _available(self._store.by_hash(hashlib.sha256(secret.encode()).hexdigest()))
        if found is None:
            raise not_found()
        return found.key

    async def page(self, page: int, size: int, project: str | None = None) -> tuple[tuple[Key, ...], int]:
        """Keys, newest first, pages from 1; and the number of all."""
        return await _available(self._store.page(page, size, project))

    async def _change(self, change: Awaitable[T], key_id: str | None = None) -> T:
        """The result of a change. `key_id`: of the key that it changes; `None` for a new one."""
        try:
            return await _available(change)
        finally:
            self._forget_one(key_id)

    def _forget_one(self, key_id: str | None) -> None:
        """Remove the secrets of one key from the cache; the other keys did not change."""
        self._generation += 1
        self._unknown.clear()
        if key_id is not None:
            for hashed in [hashed for hashed, (key, _) in self._known.items() if key.key_id == key_id]:
                del self._known[hashed]


def _may_be_ours(secret: str | None) -> TypeGuard[str]:
    if secret is None or len(secret) != SECRET_LENGTH:
        return False
    return secret.startswith(SECRET_START) and secret.isascii()


def invalid_api_key() -> ProxyError:
    """For malformed and unknown secrets: the same body, so that they cannot be distinguished."""
    return ProxyError("invalid_api_key", "Incorrect API key provided.")


def require_usable(key: Key, secret_ends: float | None, now: float) -> Key:
    """The key, unless it is blocked or expired. Raises `ProxyError`: key_blocked, key_expired."""
    if key.blocked:
        raise ProxyError("key_blocked", "This API key is blocked.")
    for end in (key.expires_at, secret_ends):
        if end is not None and now >= end:
            raise ProxyError("key_expired", "This API key has expired.")
    return key


def _remember(memory: OrderedDict[bytes, Any], hashed: bytes, entry: Any, most: int) -> None:
    memory[hashed] = entry
    if len(memory) > most:
        memory.popitem(last=False)


async def _available(reading: Awaitable[T]) -> T:
    try:
        return await reading
    except StoreUnavailableError as error:
        raise ProxyError("accounting_unavailable", "The store of keys cannot be used now.") from error
