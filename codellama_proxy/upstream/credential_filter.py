"""Removes a deployment's own credentials from the bytes of its answers, before they are parsed, cached or sent."""

from __future__ import annotations

import json
from collections.abc import Iterator

from codellama_proxy.core.masking import MIN_PART_CHARS, REMOVED, credentials
from codellama_proxy.core.per_deployment import PerDeployment
from codellama_proxy.core.snapshot import Deployment

MIN_WORD_CHARS = 16
"""Shorter credentials without a digit are kept: placeholders such as `not-needed` are words of ordinary answers."""


def without_credentials(data: bytes, deployment: Deployment) -> bytes:
    """A whole answer, with `[removed]` instead of each credential of the deployment."""
    for needle in _NEEDLES.of(deployment):
        if needle in data:
            data = data.replace(needle, REMOVED.encode())
    return data


class CredentialFilter:
    """Filters one answer, read in pieces; finds credentials that are split between two pieces."""

    __slots__ = ("_held", "needles")

    def __init__(self, deployment: Deployment) -> None:
        self.needles = _NEEDLES.of(deployment)
        """What is removed, in each of its forms."""
        self._held = b""

    @property
    def holds(self) -> bool:
        """Whether the end of the last piece is held back."""
        return bool(self._held)

    def feed(self, piece: bytes) -> bytes:
        """Filters the next piece of a stream; an end that may start a credential is held back for the next call."""
        data = self._held + piece if self._held else piece
        for needle in self.needles:
            if needle in data:
                data = data.replace(needle, REMOVED.encode())
        if data.endswith(b"\n"):  # most pieces; no credential contains a line break
            self._held = b""
            return data
        held = max([_started(data, one) for one in self.needles], default=0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def flush(self) -> bytes:
        """The bytes held back at the end of the stream."""
        held, self._held = self._held, b""
        return held


def _secrets(deployment: Deployment) -> Iterator[str]:
    """Credentials of the entry, and the values substituted into its headers."""
    yield from credentials(deployment)
    for secret in deployment.secrets:
        if any(secret.reveal() in value for value in deployment.headers.values()):
            yield secret.reveal()


def _needles(secrets: frozenset[str]) -> tuple[bytes, ...]:
    """The forms to search for, longest first: plain, and in JSON with and without escaped slashes."""
    found: set[str] = set()
    for word in {word for secret in secrets for word in secret.split() if _is_distinctive(word)}:
        escaped = json.dumps(word)[1:-1]
        found |= {word, escaped, escaped.replace("/", "\\/"), json.dumps(word, ensure_ascii=False)[1:-1]}
    return tuple(sorted((one.encode(errors="surrogatepass") for one in found), key=len, reverse=True))


_NEEDLES = PerDeployment(lambda deployment: _needles(frozenset(_secrets(deployment))))


def _is_distinctive(word: str) -> bool:
    if len(word) >= MIN_WORD_CHARS:
        return True
    return len(word) >= MIN_PART_CHARS and any(char.isdigit() for char in word)


def _started(data: bytes, needle: bytes) -> int:
    """The number of bytes at the end of `data` that `needle` begins with."""
    start = data.find(needle[:1], max(0, len(data) - len(needle) + 1))
    while start >= 0:
        if needle.startswith(data[start:]):
            return len(data) - start
        start = data.find(needle[:1], start + 1)
    return 0
