"""The database as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from codellama_proxy.store.interfaces.configurations import Configurations
from codellama_proxy.store.interfaces.keys import Audit, Keys, KeySession
from codellama_proxy.store.interfaces.ledger import Ledger, LedgerSession, Upkeep
from codellama_proxy.store.interfaces.outbox import Outbox
from codellama_proxy.store.interfaces.reports import Overviews, Reports, Searches
from codellama_proxy.store.interfaces.ui_sessions import UiSessions


class Health(Protocol):
    """Whether the store can write."""

    @property
    def healthy(self) -> bool:
        """Whether the last write was committed."""


class WorkerInfo(NamedTuple):
    """A process that serves on the database. Unix seconds."""

    name: str
    """`host:pid`."""
    version: str
    digest: str
    """Of its configuration."""
    loaded_at: float
    started_at: float
    beat_at: float
    """When it last wrote."""


class CachePurge(NamedTuple):
    """Answers that the response caches of all processes have to remove."""

    project: str | None
    """`None`: of every project."""
    model: str | None
    """`None`: of every model."""


class Workers(Protocol):
    """The processes that serve on a database."""

    @property
    def late_settlements(self) -> int:
        """Number of requests that ended here after another process had settled them: they stay as that booked them."""

    @property
    def configurations(self) -> Mapping[str, int]:
        """The number of processes by the digest of their configuration, as seen about a second ago. Reads nothing."""

    def cache_purges(self) -> list[CachePurge]:
        """Those that an operator asked for since the last call, oldest first. Reads nothing."""

    async def workers(self) -> list[WorkerInfo]:
        """Those that have not signed off, the oldest first. Raises `ProxyError` accounting_unavailable."""


class Store(NamedTuple):
    """An open database, as the server uses it."""

    keys: Keys
    audit: Audit
    ledger: Ledger
    reports: Reports
    searches: Searches
    overviews: Overviews
    upkeep: Upkeep
    outbox: Outbox
    configurations: Configurations
    ui_sessions: UiSessions
    health: Health
    workers: Workers | None = None
    """`None`: no other process can use the database."""


class Database(Protocol):
    """A database that this process owns."""

    def digest_key(self) -> bytes:
        """The installation's key of the configuration digest. Raises `StoreError`."""

    def open(self) -> AbstractAsyncContextManager[Store]:
        """The store; leaving the context writes what is queued, then closes. Raises `StoreError`."""


class AdminSession(KeySession, LedgerSession, Protocol):
    """The operations of commands. A database error becomes `StoreError` on leaving the session's `with` block."""

    def digest_key(self) -> bytes | None:
        """The installation's key of the configuration digest; `None` before the first start of a server."""
