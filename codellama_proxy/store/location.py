"""Reads the database setting: a path. Addresses are refused without repeating them, since they may hold a password."""

from __future__ import annotations

import re
from pathlib import Path

from codellama_proxy.store.errors import StoreError

DEFAULT_DATABASE = "data/proxy.db"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/|(?:file|sqlite):", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"[^/]*:[^/]*@|(?:.*\s)?(?:password|passfile|host|dbname|user)\s*=", re.IGNORECASE | re.DOTALL
)
KNOWN = ("postgresql", "postgres", "mysql", "mariadb", "sqlite", "mongodb", "redis", "file", "http", "https")
"""Schemes that the error message may name; any other word could be part of a password."""


def database_file(given: str) -> Path:
    """The path of the database file in a setting.

    Raises `StoreError` for an address; the message contains nothing of it except a well-known scheme.
    """
    text = given.strip().strip("'\"").strip()
    if "://" not in text and not _SCHEME.match(text) and not _CREDENTIALS.match(text):
        return Path(given)
    scheme = re.split(r"[:+]", text, maxsplit=1)[0].lower()
    what = f"{scheme}:// is not supported" if scheme in KNOWN else "addresses are not supported"
    raise StoreError(f"the database must be a file: {what} (a path such as data/proxy.db)")
