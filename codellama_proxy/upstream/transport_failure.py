"""Converts transport exceptions into failures."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from codellama_proxy.core.types import Failure
from codellama_proxy.failures import classify as failures

NOT_SENT: Mapping[type[httpx2.TransportError], str] = {
    httpx2.ConnectTimeout: "connect_timeout",
    httpx2.ConnectError: "connect",
    httpx2.PoolTimeout: "connect_timeout",
    httpx2.UnsupportedProtocol: "address",
    httpx2.ProxyError: "proxy",
}


def failure_of(error: httpx2.TransportError) -> Failure:
    """The failure for a transport error. After connecting, the request may have been processed."""
    for kind, reason in NOT_SENT.items():
        if isinstance(error, kind):
            if kind is httpx2.ConnectTimeout:
                return failures.timed_out(reason, sent=False)
            return failures.unreachable(reason, sent=False)
    if isinstance(error, httpx2.TimeoutException):
        return failures.timed_out("read_timeout")
    return failures.unreachable("broken_connection", sent=True)
