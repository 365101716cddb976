"""Errors, heartbeats and response headers in Anthropic's form (docs.anthropic.com/en/api/errors)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.limits.rates import Rate

PROMPT_TOO_LONG = "prompt is too long: "
"""Begins the message with which Claude Code compacts its conversation."""
TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Status -> type; others are `invalid_request_error`."""


def error_body(error: ProxyError, request_id: str) -> bytes:
    """The body of an error response."""
    found = {"type": "error", "error": _error(error, type_of(error)), "request_id": request_id}
    return orjson.dumps(found)


def error_event(error: ProxyError) -> bytes:
    """The last event of a stream that failed."""
    kind = "overloaded_error" if error.status in (429, 503) else "api_error"
    return event("error", {"error": _error(error, kind)})


def type_of(error: ProxyError) -> str:
    return TYPES.get(error.status, "invalid_request_error")


def _error(error: ProxyError, kind: str) -> dict[str, Any]:
    message = error.message
    if error.code == "context_length_exceeded" and not message.startswith(PROMPT_TOO_LONG):
        message = PROMPT_TOO_LONG + message
    details: dict[str, Any] = {"error_code": error.code}
    if error.param is not None:
        details["param"] = error.param
    if error.attempts is not None:
        details["attempts"] = error.attempts
    return {"type": kind, "message": message, "details": details}


def event(name: str, fields: Mapping[str, Any]) -> bytes:
    """A server-sent event of this API, whose data repeats its name."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


PING = event("ping", {})


def header_lines(request_id: str, requests: Rate | None, tokens: Rate | None, now: float) -> str:
    """`request-id` and the rate limits, each line with its end; `now` is in Unix seconds."""
    lines = f"request-id: {request_id}\r\n"
    if requests is not None:
        lines += _rate_lines("requests", requests, now)
    return lines if tokens is None else lines + _rate_lines("tokens", tokens, now)


def _rate_lines(kind: str, rate: Rate, now: float) -> str:
    return (
        f"anthropic-ratelimit-{kind}-limit: {rate.limit}\r\n"
        f"anthropic-ratelimit-{kind}-remaining: {rate.remaining}\r\n"
        f"anthropic-ratelimit-{kind}-reset: {_rfc3339(math.ceil(now + rate.reset))}\r\n"
    )


@lru_cache(maxsize=64)
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
