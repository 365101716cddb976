"""Who sends a request: the proxy by its key, the end user by an identifier in the form that providers accept.

Identifiers are short and without personal data. One that does not fit is replaced by its SHA-256, so that one user
stays one user. The ledger keeps the original.
"""

from __future__ import annotations

import hashlib
import re

from codellama_proxy.core.snapshot import Deployment

MAX_OPENAI_CHARACTERS = 64
"""Characters of `user`, `safety_identifier` and `prompt_cache_key` at OpenAI."""
MAX_ANTHROPIC_CHARACTERS = 256
"""Characters of `metadata.user_id` at Anthropic."""
_ADDRESS = re.compile(r"@|%40", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w-])\+?\d(?:[\s().-]*\d){6,14}(?![\w-])", re.ASCII)
"""A telephone number: 7 to 15 digits, grouped in any usual way."""


def short(identifier: str) -> str:
    """Of at most `MAX_OPENAI_CHARACTERS` characters."""
    return identifier if len(identifier) <= MAX_OPENAI_CHARACTERS else _hashed(identifier)


def impersonal(identifier: str) -> str:
    """Of at most `MAX_ANTHROPIC_CHARACTERS` characters, and neither an e-mail address nor a telephone number."""
    fits = len(identifier) <= MAX_ANTHROPIC_CHARACTERS
    if fits and not _ADDRESS.search(identifier) and not _NUMBER.search(identifier):
        return identifier
    return _hashed(identifier)


def _hashed(identifier: str) -> str:
    return hashlib.sha256(identifier.encode(errors="surrogatepass")).hexdigest()


def bearer_headers(deployment: Deployment) -> dict[str, str]:
    """The entry's own headers, with its key as a bearer token."""
    headers = dict(deployment.headers)
    if deployment.api_key is not None:
        headers["authorization"] = f"Bearer {deployment.api_key.reveal()}"
    return headers
