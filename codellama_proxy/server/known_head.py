"""Recognises the heads that a connection repeats: a client sends the same headers with each of its requests."""

from __future__ import annotations

from codellama_proxy.server.framing import Headers
from codellama_proxy.web.client_headers import CREDENTIAL_HEADERS, ClientHeaders

MAX_KNOWN_BYTES = 4096
"""Larger heads are not kept: a connection may be idle for long."""
MAX_LENGTH_DIGITS = 19
"""A length with more digits would change the size of the head, and is checked like a new head."""

LENGTH = b"content-length"


class KnownHead:
    """A head that was checked. A head like it needs no other check."""

    __slots__ = ("_credential_at", "_headers", "_length_at", "_start", "client_headers", "path", "size")

    def __init__(self, start: tuple[bytes, bytes, str], path: bytes, headers: Headers, size: int) -> None:
        """`start`: method, target and HTTP version; `path`: the target's; `size`: as of `framing.head_size`."""
        self.path = path
        self.size = size
        self.client_headers = ClientHeaders(headers)
        """Of the last head that was like it."""
        self._start = start
        self._headers = list(headers)
        names = [name for name, _ in headers]
        self._length_at = names.index(LENGTH) if LENGTH in names else -1
        self._credential_at = _only_credential(names)

    def is_like(self, start: tuple[bytes, bytes, str], headers: Headers) -> bool:
        """Whether it is the same apart from its content length, which the parser checks, and its credential.

        The checks of a head read neither. A credential of another length would change the size of the head.
        """
        known, at = self._headers, self._length_at
        if start != self._start or len(headers) != len(known):
            return False
        if at >= 0:
            if headers[at][0] != LENGTH or len(headers[at][1]) > MAX_LENGTH_DIGITS:
                return False
            known[at] = headers[at]
        return headers == known or self._has_other_credential(headers)

    def _has_other_credential(self, headers: Headers) -> bool:
        """Whether only the credential differs; then that of `client_headers` is the new one."""
        at = self._credential_at
        if at < 0 or len(headers[at][1]) != len(self._headers[at][1]):
            return False
        other = [*self._headers]
        other[at] = self._headers[at][0], headers[at][1]
        if headers != other:
            return False
        self._headers = other
        self.client_headers = self.client_headers.with_credential(at, other[at])
        return True


def _only_credential(names: list[bytes]) -> int:
    """The index of the header with the credential; -1 unless there is exactly one."""
    found = [at for at, name in enumerate(names) if name in CREDENTIAL_HEADERS]
    return found[0] if len(found) == 1 else -1
