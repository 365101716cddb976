"""Every error that a caller can receive, in OpenAI's format (`{"error": {...}}`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

# code -> (status, type, may the client's SDK retry).
CODES: Mapping[str, tuple[int, str, bool]] = {
    "invalid_json": (400, "invalid_request_error", False),
    "invalid_encoding": (400, "invalid_request_error", False),
    "json_too_deep": (400, "invalid_request_error", False),
    "missing_required_parameter": (400, "invalid_request_error", False),
    "invalid_type": (400, "invalid_request_error", False),
    "invalid_value": (400, "invalid_request_error", False),
    "unsupported_parameter": (400, "invalid_request_error", False),
    "context_length_exceeded": (400, "invalid_request_error", False),
    "content_filter": (400, "invalid_request_error", False),
    "upstream_rejected": (400, "invalid_request_error", False),
    "model_not_priced": (400, "invalid_request_error", False),
    "invalid_api_key": (401, "invalid_request_error", False),
    "key_blocked": (401, "invalid_request_error", False),
    "key_expired": (401, "invalid_request_error", False),
    "admin_required": (403, "permission_error", False),
    "admin_disabled": (403, "permission_error", False),
    "model_not_found": (404, "invalid_request_error", False),
    "not_found": (404, "invalid_request_error", False),
    "method_not_allowed": (405, "invalid_request_error", False),
    "request_timeout": (408, "invalid_request_error", False),
    "request_too_large": (413, "invalid_request_error", False),
    "unsupported_media_type": (415, "invalid_request_error", False),
    "unsupported_content_encoding": (415, "invalid_request_error", False),
    "upgrade_required": (426, "invalid_request_error", False),
    "rate_limit_exceeded": (429, "requests", True),
    "concurrency_limit_exceeded": (429, "requests", True),
    "insufficient_quota": (429, "insufficient_quota", False),
    "upstream_rate_limited": (429, "requests", True),
    "headers_too_large": (431, "invalid_request_error", False),
    "internal_error": (500, "server_error", False),
    "upstream_error": (502, "server_error", False),
    "upstream_invalid_response": (502, "server_error", False),
    "upstream_auth_failed": (502, "server_error", False),
    "overloaded": (503, "server_error", True),
    "accounting_unavailable": (503, "server_error", True),
    "shutting_down": (503, "server_error", True),
    "upstream_unavailable": (503, "server_error", True),
    "upstream_timeout": (504, "server_error", False),
    "deadline_exceeded": (504, "server_error", False),
}


class ProxyError(Exception):
    """A refusal or failure with a code of `CODES`. `message` is sent to the caller unchanged."""

    detail: str | None = None
    """The reason, only for the request's log line; it contains no secret and no text of the client."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        type: str | None = None,  # noqa: A002 - OpenAI's word; only rate limits differ from their code's type
        attempts: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.attempts = attempts
        self.headers = dict(headers or {})
        status, default_type, self.retryable = CODES[code]
        self.status = status
        self.type = type or default_type

    def body(self) -> bytes:
        """`{"error": {...}}` as one line of JSON."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.attempts is not None:
            error["attempts"] = self.attempts
        return orjson.dumps({"error": error})

    def wire_headers(self) -> dict[str, str]:
        """Headers of the error: whether and when to retry."""
        headers = {"content-type": "application/json", **self.headers}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if not self.retryable:
            headers["x-should-retry"] = "false"
        elif self.status in (429, 503):
            seconds = max(self.retry_after if self.retry_after is not None else 1.0, 0.001)
            headers["retry-after"] = str(math.ceil(seconds))
            headers["retry-after-ms"] = str(math.ceil(seconds * 1000))
        return headers
