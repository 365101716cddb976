"""Errors of the Responses API.

Before an answer has begun they have the form of all of OpenAI's APIs. Afterwards `response.failed` has an object with
one of a few codes, on which clients decide whether to try again.
"""

from __future__ import annotations

from codellama_proxy.core.errors import ProxyError

KEPT = frozenset({"context_length_exceeded", "insufficient_quota", "rate_limit_exceeded"})
"""Codes that OpenAI has too."""
DEFAULT_PAUSE_SECONDS = 1.0
"""For a rate limit without a time of its own."""


def error_body(error: ProxyError, request_id: str) -> bytes:
    """The body of an error response; its codes are OpenAI's."""
    del request_id
    return error.body()


def failure_of(error: ProxyError) -> dict[str, str]:
    """`code` and `message` of a failed answer. Codex reads from the text of a rate limit how long to wait."""
    code = _code(error)
    if code != "rate_limit_exceeded":
        return {"code": code, "message": error.message}
    seconds = max(error.retry_after if error.retry_after is not None else DEFAULT_PAUSE_SECONDS, 0.001)
    return {"code": code, "message": f"{error.message} Please try again in {seconds:.3f}s."}


def _code(error: ProxyError) -> str:
    if error.code in KEPT:
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status == 400 else "server_error"
