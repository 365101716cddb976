"""Which heads of requests are taken: one host, a path, one unmistakable length of the body.

What two readers of the same bytes could understand differently is refused: behind a reverse proxy that shares its
connections, the difference would be another client's request.
"""

from __future__ import annotations

import re

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, with their values as they came."""

_HOST = re.compile(rb"(?:\[[0-9a-fA-F:.]+\]|[\w.~%!$&'()*+,;=-]+)(?::(\d{0,5}))?", re.ASCII)


class BadHeadError(ValueError):
    """A head that is not taken."""


def check(method: bytes, target: bytes, version: str, headers: Headers) -> None:
    """Raises `BadHeadError`."""
    if version not in ("1.1", "1.0"):
        raise BadHeadError("another version of HTTP")
    if method == b"CONNECT" or not target.startswith(b"/"):
        raise BadHeadError("not a path: this is no forward proxy")
    if not _is_addressed([value for name, value in headers if name == b"host"], version):
        raise BadHeadError("no host, two of them, or one that is none")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (version == "1.0" or len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise BadHeadError("a coding other than chunked, which its end cannot be told from")


def without_offer(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The head of the same HTTP/1.1 request without its offer to upgrade the protocol."""
    kept = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"".join([b"%b %b HTTP/1.1\r\n" % (method, target), *kept, b"\r\n"])


def _is_addressed(hosts: list[bytes], version: str) -> bool:
    """Exactly one host, and one that could be; HTTP/1.0 did not know them yet."""
    if len(hosts) != 1:
        return not hosts and version == "1.0"
    found = _HOST.fullmatch(hosts[0])
    return found is not None and int(found[1] or 0) < 65536
