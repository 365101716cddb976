"""Which request heads are accepted: one host, a path, one unambiguous body length (RFC 9112, sections 3.2 and 6.3).

Ambiguous heads are refused: behind a reverse proxy that shares connections they allow request smuggling. The response
to a refused head is written here too, as bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from codellama_proxy.core.errors import ProxyError

MAX_HEAD_BYTES = 64 << 10
"""Of a request's target and headers together."""

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values as received."""

_HOST = re.compile(rb"(?:\[[0-9a-fA-F:.]+\]|[\w.~%!$&'()*+,;=-]+)(?::(\d{0,5}))?", re.ASCII)


class BadHeadError(ValueError):
    """A head that is refused."""


def head_size(target: bytes, headers: Headers) -> int:
    """Bytes of a head, without its method and version."""
    return len(target) + sum([len(name) + len(value) + 4 for name, value in headers])


def check(method: bytes, target: bytes, version: str, headers: Headers) -> None:
    """Raises `BadHeadError` for a head that is ambiguous or not for this server, whatever its size."""
    if version not in ("1.1", "1.0"):
        raise BadHeadError("unsupported HTTP version")
    if method == b"CONNECT" or not target.startswith(b"/"):
        raise BadHeadError("the target is not a path")
    hosts, codings = [], []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if not (len(hosts) == 1 and _is_host(hosts[0])) and (hosts or version != "1.0"):  # HTTP/1.0 needs none
        raise BadHeadError("missing, repeated or invalid host")
    if codings and (version == "1.0" or len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise BadHeadError("unsupported transfer-encoding")


def without_offer(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The head of the same request without its offer to upgrade the protocol. `version` is HTTP's."""
    kept = [b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"upgrade"]
    return b"".join([b"%b %b HTTP/%b\r\n" % (method, target, version.encode()), *kept, b"\r\n"])


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    """Clients repeat it in every request."""
    found = _HOST.fullmatch(value)
    return found is not None and int(found[1] or 0) < 65536


def too_large() -> ProxyError:
    """The error for a head of more than `MAX_HEAD_BYTES`."""
    return ProxyError("headers_too_large", f"The request's headers are larger than {MAX_HEAD_BYTES} bytes.")


def malformed() -> ProxyError:
    """The error for bytes that are no request, and for a head that is refused."""
    return ProxyError("invalid_value", "The bytes received are not a valid HTTP/1.1 request.")


def error_response(error: ProxyError, request_id: str) -> bytes:
    """A whole response, after which the connection closes."""
    body = error.body()
    headers = {
        **error.wire_headers(),
        "x-request-id": request_id,
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
    return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body])
