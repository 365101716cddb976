"""Virtual keys, and the record of their changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from codellama_proxy.core.types import Key
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange

MAX_PROJECTS = 1000
"""Projects in one list."""


class StoredKey(NamedTuple):
    """A key, found by the hash of one of its secrets."""

    key: Key
    secret_expires_at: float | None
    """When that secret stops working; `None` for the current one."""


class Keys(Protocol):
    """Virtual keys. Methods with a `key_id` raise `ProxyError` 404 if there is no such key.

    Each change is recorded in the audit for `actor`, in the same transaction.
    """

    watch_seconds: float
    """How often `version` has to be asked for, so that a change is in force within a second."""

    async def by_hash(self, secret_hash: str) -> StoredKey | None:
        """The key with a secret of this hexadecimal SHA-256, or `None`."""

    async def get(self, key_id: str) -> Key: ...

    async def page(self, page: int, size: int, project: str | None) -> tuple[tuple[Key, ...], int]:
        """One page of keys, newest first, pages from 1; and the total number."""

    async def some(self, key_ids: Sequence[str]) -> dict[str, Key]:
        """Those of some keys that exist, by ID."""

    async def projects(self) -> list[str]:
        """The names of projects that have keys, at most `MAX_PROJECTS`."""

    async def create(
        self, change: KeyChange, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        """The key and its secret, which is not stored. `form`: the token of a form that is used once."""

    async def update(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key: ...

    async def block(self, key_id: str, blocked: bool, actor: str, now: float) -> Key: ...

    async def rotate(
        self, key_id: str, overlap: float, actor: str, now: float, form: str | None = None
    ) -> tuple[Key, str]:
        """A new secret; the old one stays valid for `overlap` seconds. `form`: as in `create`."""

    async def delete(self, key_id: str, actor: str, now: float) -> Key:
        """The key that was deleted. Its spending stays."""

    async def version(self) -> int:
        """A number that changes when another process wrote to the database."""


class Audit(Protocol):
    """The record of key changes."""

    async def changes(self, filters: AuditFilters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """One page of entries as in `/audit`, newest first, pages from 1; and the total number."""


class KeySession(Protocol):
    """Keys. Raises `ProxyError` 404 for an unknown `key_id`. `actor` goes into the audit."""

    def key(self, key_id: str) -> Key: ...

    def keys(self, project: str | None) -> list[Key]:
        """All keys, or those of one project, newest first."""

    def keys_by_prefix(self, prefix: str) -> list[Key]:
        """Keys with a secret that begins with `prefix`; at most two."""

    def create_key(self, change: KeyChange, actor: str, now: float) -> tuple[Key, str]:
        """The key and its secret, which is not stored."""

    def update_key(self, key_id: str, change: KeyChange, actor: str, now: float) -> Key: ...

    def block_key(self, key_id: str, blocked: bool, actor: str, now: float) -> Key: ...

    def rotate_key(self, key_id: str, overlap: float, actor: str, now: float) -> tuple[Key, str]:
        """A new secret; the old one stays valid for `overlap` seconds."""

    def delete_key(self, key_id: str, actor: str, now: float) -> Key:
        """The key that was deleted. Its spending stays."""

    def key_changes(self, filters: AuditFilters, size: int) -> list[dict[str, Any]]:
        """The audit, newest first, at most `size` entries, as `/audit` shows them."""
