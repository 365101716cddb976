"""Where the database is: a path. Everything that looks like an address is refused, without a word of what is in it."""

from __future__ import annotations

import re
from pathlib import Path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/")
_CREDENTIALS = re.compile(
    r"[^/]*:[^/]*@|(?:.*\s)?(?:password|passfile|host|dbname|user)\s*=", re.IGNORECASE | re.DOTALL
)
KNOWN = ("postgresql", "postgres", "mysql", "mariadb", "sqlite", "mongodb", "redis", "file", "http", "https")
"""Schemes that may be repeated in the refusal: no other word is sure to be one."""


class AddressError(ValueError):
    """The message is one sentence, and shows nothing of what was given but a well-known scheme."""


def path_of(given: str) -> Path:
    """Raises `AddressError`."""
    text = given.strip().strip("'\"").strip()
    if "://" not in text and not _SCHEME.match(text) and not _CREDENTIALS.match(text):
        return Path(given)
    scheme = re.split(r"[:+]", text, maxsplit=1)[0].lower()
    what = f"{scheme}:// is not supported" if scheme in KNOWN else "addresses are not supported"
    raise AddressError(f"the database must be a file: {what} (a path such as data/proxy.db)")
