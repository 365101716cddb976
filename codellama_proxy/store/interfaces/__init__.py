"""The interface of the database, independent of the database system.

Money is integer nano-USD and times are Unix seconds unless a name says otherwise. Unless documented differently, a
method raises `StoreUnavailableError` if the database cannot be used at the moment.
"""

from codellama_proxy.store.interfaces.configurations import (
    MAX_RELOADS,
    Configurations,
    KeptConfiguration,
    Reload,
)
from codellama_proxy.store.interfaces.database import (
    AdminSession,
    CachePurge,
    Database,
    Health,
    Store,
    WorkerInfo,
    Workers,
)
from codellama_proxy.store.interfaces.keys import MAX_PROJECTS, Audit, Keys, KeySession, StoredKey
from codellama_proxy.store.interfaces.ledger import Difference, Ledger, LedgerSession, Upkeep
from codellama_proxy.store.interfaces.outbox import MAX_DELAY_SECONDS, Outbox, OutboxKind, Outcome, Waiting
from codellama_proxy.store.interfaces.reports import Overviews, Reports, Searches
from codellama_proxy.store.interfaces.ui_sessions import MAX_UI_SESSIONS, UiSession, UiSessions

__all__ = [
    "MAX_DELAY_SECONDS",
    "MAX_PROJECTS",
    "MAX_RELOADS",
    "MAX_UI_SESSIONS",
    "AdminSession",
    "Audit",
    "CachePurge",
    "Configurations",
    "Database",
    "Difference",
    "Health",
    "KeptConfiguration",
    "KeySession",
    "Keys",
    "Ledger",
    "LedgerSession",
    "Outbox",
    "OutboxKind",
    "Outcome",
    "Overviews",
    "Reload",
    "Reports",
    "Searches",
    "Store",
    "StoredKey",
    "UiSession",
    "UiSessions",
    "Upkeep",
    "Waiting",
    "WorkerInfo",
    "Workers",
]
