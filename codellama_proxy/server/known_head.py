"""Recognises the heads that a connection repeats: a client sends the same headers with each of its requests."""

from __future__ import annotations

from codellama_proxy.server.framing import Headers
from codellama_proxy.web.client_headers import ClientHeaders

MAX_KNOWN_BYTES = 4096
"""Larger heads are not kept: a connection may be idle for long."""
MAX_LENGTH_DIGITS = 19
"""A length with more digits would change the size of the head, and is checked like a new head."""

LENGTH = b"content-length"


class KnownHead:
    """A head that was checked. A head like it needs no other check."""

    __slots__ = ("_headers", "_length_at", "_start", "client_headers", "path", "size")

    def __init__(self, start: tuple[bytes, bytes, str], path: bytes, headers: Headers, size: int) -> None:
        """`start`: method, target and HTTP version; `path`: the target's; `size`: as of `framing.head_size`."""
        self.path = path
        self.size = size
        self.client_headers = ClientHeaders(headers)
        self._start = start
        self._headers = list(headers)
        self._length_at = next((at for at, (name, _) in enumerate(headers) if name == LENGTH), -1)

    def is_like(self, start: tuple[bytes, bytes, str], headers: Headers) -> bool:
        """Whether it is the same apart from its content length, which the parser checks."""
        at = self._length_at
        if at >= 0:
            if len(headers) <= at or headers[at][0] != LENGTH or len(headers[at][1]) > MAX_LENGTH_DIGITS:
                return False
            self._headers[at] = headers[at]
        return start == self._start and headers == self._headers
