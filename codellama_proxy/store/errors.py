"""Errors of every database system behind `store`."""

from __future__ import annotations

from codellama_proxy.core.errors import ProxyError


class StoreError(Exception):
    """The database cannot be used as it is; the message is one sentence for the operator."""


class StoreUnavailableError(StoreError):
    """The operation was not done (locked, disk full, I/O error, closed); a later try may succeed."""


class StoreLostError(StoreError):
    """The database file is no longer at the path where it was opened."""


def accounting_unavailable() -> ProxyError:
    """What a client is told when the database cannot be used."""
    message = "The ledger cannot be used at the moment. Please try again."
    return ProxyError("accounting_unavailable", message, retry_after=1.0)
