"""The digest by which a configuration is known: keyed, so that it proves nothing about a secret in it.

A server keys it with a random value that its database keeps, so that it is the same after a restart. Without such a
key, as in commands that read no database, it holds for the process alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable

DIGEST_CHARACTERS = 12
"""Hex digits."""
_OF_PROCESS = os.urandom(32)


def fingerprint_of(text: bytes, inputs: Iterable[tuple[str, str]]) -> bytes:
    """The SHA-256 of the file and of what was substituted into it, as names and values."""
    digest = hashlib.sha256(text)
    for name, value in inputs:
        digest.update(f"\0{name}\0{value}".encode(errors="surrogateescape"))
    return digest.digest()


def keyed(fingerprint: bytes, key: bytes | None = None) -> str:
    """What is shown of a fingerprint, which itself never is."""
    return hmac.new(key or _OF_PROCESS, fingerprint, hashlib.sha256).hexdigest()[:DIGEST_CHARACTERS]
