"""What the program uses of a database, whichever system is behind it.

Money is integer nano-USD, times are Unix seconds, unless a name says otherwise. Where nothing else is said, a
method raises `StoreUnavailableError` if the database does not work at the moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from codellama_proxy.core.types import Key
from codellama_proxy.limits.admission import ScopeState
from codellama_proxy.limits.rates import ScopeLimits
from codellama_proxy.store.audit import AuditFilters
from codellama_proxy.store.key_fields import KeyChange
from codellama_proxy.store.reports import Filters

# --- records -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptConfiguration:
    """A configuration as it was written, kept for a start that finds the file broken."""

    text: bytes
    digest: str
    loaded_at: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A balance that is not the sum of its rows."""

    scope: str
    spent_nanos: int
    held_nanos: int
    expected_spent_nanos: int
    expected_held_nanos: int


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
        """Balances that differ from the sum of their rows; none in a sound database."""

    def inexact(self) -> list[tuple[str, int, int]]:
        """Basis, number of requests and nano-USD of what was not booked as the upstream reported it."""

    def position(self, last: int) -> int:
        """The position in the log before the `last` newest rows."""

    def logs_after(self, position: int, size: int) -> list[tuple[int, dict[str, Any]]]:
        """Rows after a position with their own positions, oldest first, at most `size`."""

    def log(self, request_id: str) -> dict[str, Any]:
        """One row; the caller knows that it exists."""

    def standings(self, scopes: Sequence[ScopeLimits], now: float) -> list[ScopeState]:
        """The scopes' balances as of `now`."""


class AdminSession(KeySession, LedgerSession, Protocol):
    """What commands do on a database. Methods raise `StoreError` where the session's `with` block ends."""

    def digest_key(self) -> bytes | None:
        """The installation's key of the configuration digest; `None` before the first start of a server."""
