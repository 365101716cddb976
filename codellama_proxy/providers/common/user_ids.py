"""End users' identifiers in the form that providers accept: short, and without personal data.

A value that does not fit is replaced by its SHA-256, so that one user stays one user. The ledger keeps the original.
"""

from __future__ import annotations

import hashlib
import re

SHORT = 64
"""Characters of `user`, `safety_identifier` and `prompt_cache_key` at OpenAI."""
LONG = 256
"""Characters of `metadata.user_id` at Anthropic."""
_ADDRESS = re.compile(r"@|%40", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w-])\+?\d(?:[\s().-]*\d){6,14}(?![\w-])", re.ASCII)
"""A telephone number: 7 to 15 digits, grouped in any usual way."""


def short(identifier: str) -> str:
    """Of at most `SHORT` characters."""
    return identifier if len(identifier) <= SHORT else _hashed(identifier)


def impersonal(identifier: str) -> str:
    """Of at most `LONG` characters, and neither an e-mail address nor a telephone number."""
    fits = len(identifier) <= LONG
    if fits and not _ADDRESS.search(identifier) and not _NUMBER.search(identifier):
        return identifier
    return _hashed(identifier)


def _hashed(identifier: str) -> str:
    return hashlib.sha256(identifier.encode(errors="surrogatepass")).hexdigest()
