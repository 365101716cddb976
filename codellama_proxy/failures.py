"""Who is to blame for a failed attempt: every status, body, timeout and broken stream becomes one `Failure`.

One classifier for all providers and for streams and plain answers alike (the classes are `FailureClass`):

    caller      the request itself; the next deployment would refuse it too, unless `fallback_on` says otherwise
    credential  our key, our quota, our model name: this deployment is of no use for a while
    busy        the deployment works but has no room now
    transient   it may well work the next time
    disguised   said 200 and meant a failure

An upstream's own words are kept apart (`Failure.said`), and shown only after `told` has cleaned them with what is known
of the deployment's secrets.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from codellama_proxy.masking import Clean, sentence, words
from codellama_proxy.types import Failure, FailureClass

BY_STATUS: Mapping[int, FailureClass] = {
    400: "caller",
    401: "credential",
    402: "credential",
    403: "credential",
    404: "caller",
    408: "transient",
    409: "transient",
    413: "caller",
    422: "caller",
    424: "transient",
    425: "transient",
    429: "busy",
    498: "busy",
    529: "busy",
}

CODE_OF_CLASS: Mapping[FailureClass, str] = {
    "caller": "upstream_rejected",
    "credential": "upstream_auth_failed",
    "busy": "upstream_rate_limited",
    "transient": "upstream_error",
    "disguised": "upstream_invalid_response",
    "client_left": "upstream_error",
}

MESSAGE_OF_CLASS: Mapping[FailureClass, str] = {
    "caller": "The upstream refused the request.",
    "credential": "The upstream did not accept this proxy's credential or quota for the model.",
    "busy": "The upstream is rate limited or overloaded.",
    "transient": "The upstream failed.",
    "disguised": "The upstream's answer was not valid.",
    "client_left": "The client left.",
}

CONTEXT_LENGTH = (
    "maximum context length",
    "context length",
    "context window",
    "exceed context limit",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "exceeds the available context size",
    "exceeds the maximum number of tokens allowed",
    "input tokens exceed the configured limit",
    "maximum input length is",
    "reduce the length",
)
CONTEXT_LENGTH_PAIRS = (("max_new_tokens", "must be"), ("current length is", "while limit is"))
CONTENT_FILTER = ("safety system", "content management policy")
CONTENT_FILTER_CODES = {"content_filter", "content_policy_violation"}
QUOTA = (
    "insufficient_quota",
    "usage limit reached",
    "credit balance is too low",
    "exceeded your current quota",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "calls / month",
)
OUR_FAULT = ("api key not valid", "not supported by any provider")
"""Said with 400 by providers that mean our key, or our name for the model."""
LONGEST_PARAM = 256
"""Characters."""
LONGEST_WAIT = 86400.0
"""Seconds: who says "in a year" means "not today", and the number has to fit into a header."""
UNKNOWN_MODEL = (
    "model_not_found",
    "deploymentnotfound",
    "does not exist",
    "model not found",
    "not_found_error model:",
    "make sure the correct model id",
    "the requested resource could not be found",
)


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error body of any provider, read as far as it could be understood."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str | None = None


class AttemptFailed(Exception):  # noqa: N818 - it is news for the routing loop, not an error of ours
    """Raised by dialects and by the upstream edge; the routing loop is its only reader."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def of_status(status: int, headers: Mapping[str, str], error: UpstreamError, now: float) -> Failure:
    """An answer whose status is not 200. `now` is unix seconds, for HTTP dates."""
    if status < 400:
        return disguised("redirect" if status >= 300 else f"http_{status}", status=status)
    wait = retry_after(headers, now)
    cls = _class_of(status, error, wait)
    reason = _caller_reason(error) if status in (400, 403, 413, 422) else ""
    if reason:
        cls = "caller"
    return _failure(cls, status, error, reason=reason or f"http_{status}", wait=wait)


def in_band(error: UpstreamError, status: int | None = None) -> Failure:
    """An error inside a 200: as the whole body, as a stream's first event, or later in it."""
    reason = _caller_reason(error)
    return _failure("caller" if reason else "disguised", status, error, reason=reason or "error_in_200")


def disguised(reason: str, *, status: int | None = None) -> Failure:
    """A 200 that is not an answer: `not_json`, `no_choices`, `empty_stream`, `cut_stream`, `too_large` ..."""
    return _failure("disguised", status, UpstreamError(), reason=reason)


def unreachable(reason: str, *, sent: bool) -> Failure:
    """No HTTP answer at all: `connect`, `tls`, `read` ...; `sent`: the request may have been processed."""
    return Failure("transient", reason=reason, sent=sent, message="The upstream could not be reached.")


def timed_out(reason: str, *, sent: bool = True) -> Failure:
    """`connect_timeout`, `first_token_timeout`, `idle_timeout`, `answer_timeout`."""
    message = "The upstream did not answer in time."
    return Failure("transient", code="upstream_timeout", reason=reason, sent=sent, message=message)


def _class_of(status: int, error: UpstreamError, wait: float | None) -> FailureClass:
    text = f"{error.code} {error.type} {error.message}".lower()
    if status in (400, 429) and any(words in text for words in QUOTA):
        return "credential"
    if status == 400 and any(words in text for words in OUR_FAULT):
        return "credential"
    if status == 404 and any(words in text for words in UNKNOWN_MODEL):
        return "credential"
    if status == 503 and wait is not None:
        return "busy"
    return BY_STATUS.get(status, "transient" if status >= 500 else "caller")


def _caller_reason(error: UpstreamError) -> str:
    text = error.message.lower()
    if error.code == "context_length_exceeded":
        return "context_length"
    if error.code in CONTENT_FILTER_CODES or any(words in text for words in CONTENT_FILTER):
        return "content_filter"
    if "string_above_max_length" in text:
        return ""
    if any(words in text for words in CONTEXT_LENGTH):
        return "context_length"
    if any(first in text and second in text for first, second in CONTEXT_LENGTH_PAIRS):
        return "context_length"
    return ""


def _failure(
    cls: FailureClass, status: int | None, error: UpstreamError, *, reason: str, wait: float | None = None
) -> Failure:
    code = {"context_length": "context_length_exceeded", "content_filter": "content_filter"}.get(
        reason, CODE_OF_CLASS[cls]
    )
    callers = cls == "caller"
    return Failure(
        cls,
        status=status,
        code=code,
        message=MESSAGE_OF_CLASS[cls],
        retry_after=wait,
        reason=reason,
        said=error.message if callers else "",
        said_param=error.param if callers else None,
    )


TOLD_WHOLE = frozenset({None, 200, 400, 413, 422})
"""Statuses with which a caller's fault is told in all of the upstream's words."""


def told(failure: Failure, clean: Clean) -> Failure:
    """The failure as it may be shown: with the upstream's words, cleaned of what `clean` and we take for secrets."""
    if not failure.said and failure.said_param is None:
        return failure
    shown = (words if failure.status in TOLD_WHOLE else sentence)(failure.said, clean)
    param = words(failure.said_param or "", clean, LONGEST_PARAM) or None
    return replace(failure, message=shown or failure.message, param=param, said="", said_param=None)


# --- reading what upstreams say ------------------------------------------------------------------------------


def parse_error(body: bytes) -> UpstreamError:
    """Any provider's error body (reference forms: OpenAI, FastAPI's `detail`, `message`, lists, plain text)."""
    try:
        return _error_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return UpstreamError(message=body[:2000].decode("utf-8", "replace"))


def _error_of(found: Any) -> UpstreamError:
    if isinstance(found, list) and found:
        return _error_of(found[0])
    if not isinstance(found, dict):
        return UpstreamError(message=found if isinstance(found, str) else "")
    for wrapper in ("error", "detail", "errors"):
        inner = found.get(wrapper)
        if isinstance(inner, dict | list | str) and inner:
            error = _error_of(inner)
            code = error.code or _text(found.get("error_type"))
            return UpstreamError(error.message, code, error.type, error.param)
    message = found.get("message") or found.get("msg")
    inner = found.get("innererror")
    details = found.get("details")
    code = _text(inner.get("code")) if isinstance(inner, dict) else ""
    code = code or (_text(details.get("error_code")) if isinstance(details, dict) else "")
    if code == "ResponsibleAIPolicyViolation":
        code = "content_filter"
    param = found.get("param")
    return UpstreamError(
        _text(message),
        code or _text(found.get("code")),
        _text(found.get("type")),
        param if isinstance(param, str) else None,
    )


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `retry-after-ms`, else `retry-after` as seconds or HTTP date; `None` for neither or nonsense."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_WAIT)
    value = headers.get("retry-after", "")
    seconds = _seconds(value)
    if seconds is None:
        seconds = _until(value, now)
    return None if seconds is None else min(seconds, LONGEST_WAIT)


def _until(date: str, now: float) -> float | None:
    try:
        return max(email.utils.parsedate_to_datetime(date).timestamp() - now, 0.0)
    except (ValueError, OverflowError, OSError):
        return None


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value is not None else -1.0
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
