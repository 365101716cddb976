"""The interface of the database, independent of the database system.

Money is integer nano-USD and times are Unix seconds unless a name says otherwise. Unless documented differently, a
method raises `StoreUnavailableError` if the database cannot be used at the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple, Protocol

from codellama_proxy.core.snapshot import Snapshot
from codellama_proxy.core.types import Key
from codellama_proxy.limits.admission import Admission, AdmissionRequest, Extension, ScopeState, Settlement
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.overviews import Among, Balance, KeyUse, Measure, Recent, Sums
from codellama_proxy.store.reports import MAX_ROWS, Filters
from codellama_proxy.store.request_search import Found, Neighbours, Search

# --- records -------------------------------------------------------------------------------------------------


class KeptConfiguration(NamedTuple):
    """A valid configuration's text, used at a start if the file is invalid."""

    text: bytes
    digest: str
    loaded_at: float


class StoredKey(NamedTuple):
    """A key, found by the hash of one of its secrets."""

    key: Key
    secret_expires_at: float | None
    """When that secret stops working; `None` for the current one."""


class UiSession(NamedTuple):
    """A sign-in to the dashboard, of a virtual key or of the operator."""

    secret_hash: str | None
    """Hexadecimal SHA-256 of the virtual key's secret; `None` for the operator."""
    master_mark: str | None
    """Tells whether the master key is still the same one; `None` for a virtual key."""
    secure: bool
    """Whether the browser came by https."""
    created_at: float
    seen_at: float


MAX_PROJECTS = 1000
"""Projects in one list."""
MAX_UI_SESSIONS = 100
"""Of one virtual key, and of the operator."""
MAX_RELOADS = 100
"""Entries of the history of reloads."""
MAX_DELAY_SECONDS = 3600.0
"""Maximum delay of an outbox record's next attempt."""
OutboxKind = Literal["request", "score", "metadata"]


class Waiting(NamedTuple):
    """An outbox record that is due."""

    id: int
    kind: OutboxKind
    request_id: str
    body: bytes
    tries: int
    service_id: int | None
    """The service's ID of the request; `None` before its delivery."""


class Outcome(NamedTuple):
    """The result of sending a record: to be retried at `next_at`, or done (delivered or given up)."""

    record: Waiting
    next_at: float | None = None
    service_id: int | None = None


class Reload(NamedTuple):
    """A configuration that was read: at the start, or when the file changed."""

    at: float
    digest: str
    """Of the configuration in force afterwards."""
    ok: bool
    lines: tuple[str, ...]
    """What changed, or the problems for which the file was refused. Without secrets."""


class Difference(NamedTuple):
    """A balance that differs from the sum of its rows."""

    scope: str
    spent_nanos: int
    held_nanos: int
    expected_spent_nanos: int
    expected_held_nanos: int


# --- for the server ------------------------------------------------------------------------------------------


class Keys(Protocol):
    """Virtual keys. Methods with a `key_id` raise `ProxyError` 404 if there is no such key.

    Each change is recorded in the audit for `actor`, in the same transaction.
    """

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


class Ledger(Protocol):
    """Admits requests and settles them, each in one transaction."""

    @property
    def dropped(self) -> int:
        """Number of tracking records removed to make room for newer ones."""

    async def admit(self, ask: AdmissionRequest) -> Admission:
        """Hold the maximum cost of the request.

        Raises `ProxyError`: a limit, model_not_priced, accounting_unavailable.
        """

    async def extend(self, extension: Extension) -> int:
        """Hold more for a further attempt; returns the nano-USD added. Raises `ProxyError` as `admit`."""

    def note(self, extension: Extension) -> None:
        """Record a further attempt that needs no money held. Never waits or raises."""

    def settle(self, settlement: Settlement) -> None:
        """Queue the end of a request; retried until it is written, once. Never waits or raises."""


class Reports(Protocol):
    """Reads the ledger. Raises `ProxyError` accounting_unavailable. Includes everything settled before the call."""

    async def standing(self, key: Key, snapshot: Snapshot) -> tuple[ScopeState, ...]:
        """The present state of a key's scopes: always its own and its project's, others if limited."""

    async def logs(self, filters: Filters, page: int, size: int) -> tuple[list[dict[str, Any]], int]:
        """One page of rows as in `/spend/logs`, newest first, pages from 1; and the total number."""

    async def before(self, filters: Filters, request_id: str, size: int) -> list[dict[str, Any]] | None:
        """Rows older than a request, newest first; `None` if there is no such request."""

    async def request(self, request_id: str) -> dict[str, Any] | None:
        """One row, with its `content` if that was stored; `None` if there is none."""

    async def spend(
        self, group_by: Sequence[str], filters: Filters, page: int = 1, size: int = MAX_ROWS
    ) -> dict[str, Any]:
        """A page of sums by any of `reports.GROUPS` and `HOUR_GROUP`, as `/spend` answers."""


class Searches(Protocol):
    """Finds requests for people, on a connection of its own, in bounded time. Raises as `Reports`."""

    async def search(self, search: Search, before: str | None, size: int) -> Found | None:
        """A page of rows as in `/spend/logs`, those before a request; `None` if there is no such request."""

    async def neighbours(self, search: Search, request_id: str) -> Neighbours:
        """The requests next to one."""

    async def among(self, search: Search, request_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Those of some requests that a search finds, newest first."""


class Overviews(Protocol):
    """Reads for overviews, on a connection of its own, in bounded time. Raises as `Reports`."""

    async def sums(self, group_by: Sequence[str], filters: Filters, among: Among | None = None) -> Sums:
        """Sums by any of `reports.GROUPS` and `HOUR_GROUP`: the same numbers as `Reports.spend`.

        `among`: a group of `group_by`; the total is of the same requests.
        """

    async def largest(
        self, group: str, measure: Measure, filters: Filters, size: int
    ) -> tuple[str | None, ...]:
        """The values of one of `reports.GROUPS` with the largest sums, as of a minute ago at most."""

    async def balances(self) -> list[Balance]:
        """Of every scope that ever had a budget, but users."""

    async def user_balances(self) -> list[Balance]:
        """Of the `MAX_USER_BALANCES` users who spent most."""

    async def recent(self, project: str | None, size: int) -> list[Recent]:
        """The newest requests that have ended, newest first."""

    async def keys(self, project: str | None) -> list[KeyUse]:
        """The newest `MAX_KEYS` keys, newest first, with their last use."""

    async def since(self) -> float | None:
        """Unix seconds of the oldest request or sum; `None` for an empty ledger."""


class Upkeep(Protocol):
    """Maintenance of the ledger."""

    async def recover(self) -> int:
        """Settle rows that a crash left held; returns their number. Call before the first admission."""

    async def roll_up(self) -> int:
        """Add settled requests to the sums that reports read; returns about how many."""

    async def fold(self, before: float) -> int:
        """Fold rows older than a time into daily totals; returns their number."""


class Outbox(Protocol):
    """Records to be sent to a tracking service: durable, bounded, delivered at least once."""

    @property
    def dropped(self) -> int:
        """Number of records removed to make room for newer ones."""

    async def add(self, kind: OutboxKind, request_id: str, body: bytes) -> None: ...

    async def due(self, now: float, most: int) -> list[Waiting]:
        """At most `most` records that are due, fewest tries first, then oldest."""

    async def note(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Record the results of sending."""

    async def knows(self, request_id: str) -> bool:
        """Whether the request was delivered or waits for delivery."""

    async def forget(self, before: float) -> None:
        """Delete the service's IDs of requests delivered before a time."""


class UiSessions(Protocol):
    """Sign-ins to the dashboard, by the hexadecimal SHA-256 of their ID."""

    async def add(self, id_hash: str, session: UiSession) -> None:
        """Keeps at most `MAX_UI_SESSIONS` of a credential: those that were used last."""

    async def find(self, id_hash: str) -> UiSession | None: ...

    def seen(self, id_hash: str, at: float) -> None:
        """Queue that the session was used. Never waits or raises."""

    async def end(self, id_hash: str) -> None:
        """Delete the session, if there is one."""

    async def forget(self, *, seen_before: float, created_before: float) -> None:
        """Delete sessions that were not used since a time, or began before another."""


class Configurations(Protocol):
    """The last good configuration, and the history of reloads."""

    def keep(self, kept: KeptConfiguration | None) -> None:
        """Queue the replacement of the kept configuration; `None` removes it. Never waits or raises."""

    def record(self, reload: Reload) -> None:
        """Queue an entry of the history. Never waits or raises."""

    async def reloads(self) -> list[Reload]:
        """The last `MAX_RELOADS`, newest first. Raises `ProxyError` accounting_unavailable."""


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


class Workers(Protocol):
    """The processes that serve on a database."""

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


# --- for commands: synchronous -------------------------------------------------------------------------------


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


class LedgerSession(Protocol):
    """The ledger, read only. Rows are as `/spend` and `/spend/logs` show them."""

    def spend(self, group_by: Sequence[str], filters: Filters) -> dict[str, Any]:
        """Sums by any of `reports.GROUPS`."""

    def reconcile(self) -> list[Difference]:
        """Balances, and sums by hour and day, that differ from their rows; none in a sound database."""

    def inexact(self) -> list[tuple[str, int, int]]:
        """Per basis other than exact: the basis, the number of requests and their cost in nano-USD."""

    def position(self, last: int) -> int:
        """The position in the log before the `last` newest rows."""

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        """Rows after a position with their own positions, oldest first, at most `size`."""

    def log(self, request_id: str) -> dict[str, Any]:
        """One row; the caller knows that it exists."""

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        """The scopes' balances as of `now`."""


class AdminSession(KeySession, LedgerSession, Protocol):
    """The operations of commands. A database error becomes `StoreError` on leaving the session's `with` block."""

    def digest_key(self) -> bytes | None:
        """The installation's key of the configuration digest; `None` before the first start of a server."""
