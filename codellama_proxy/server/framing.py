"""Which request heads are accepted: one host, a path, one unambiguous body length (RFC 9112, sections 3.2 and 6.3).

Ambiguous heads are refused: behind a reverse proxy that shares connections they allow request smuggling.
"""

from __future__ import annotations

import re

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values as received."""

_HOST = re.compile(rb"(?:\[[0-9a-fA-F:.]+\]|[\w.~%!$&'()*+,;=-]+)(?::(\d{0,5}))?", re.ASCII)


class BadHeadError(ValueError):
    """A head that is refused."""


def check(method: bytes, target: bytes, version: str, headers: Headers) -> None:
    """Raises `BadHeadError`."""
    if version not in ("1.1", "1.0"):
        raise BadHeadError("unsupported HTTP version")
    if method == b"CONNECT" or not target.startswith(b"/"):
        raise BadHeadError("the target is not a path")
    if not _is_addressed([value for name, value in headers if name == b"host"], version):
        raise BadHeadError("missing, repeated or invalid host")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (version == "1.0" or len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise BadHeadError("unsupported transfer-encoding")


def without_offer(method: bytes, target: bytes, headers: Headers) -> bytes:
    """The head of the same HTTP/1.1 request without its offer to upgrade the protocol."""
    kept = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"".join([b"%b %b HTTP/1.1\r\n" % (method, target), *kept, b"\r\n"])


def _is_addressed(hosts: list[bytes], version: str) -> bool:
    """Exactly one valid host; none is allowed in HTTP/1.0."""
    if len(hosts) != 1:
        return not hosts and version == "1.0"
    found = _HOST.fullmatch(hosts[0])
    return found is not None and int(found[1] or 0) < 65536
