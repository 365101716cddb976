"""Classifies failed attempts: every status, body, timeout and broken stream becomes one `Failure`.

The classes (`FailureClass`) are the same for all providers, for streams and for plain answers:

    caller      the request is at fault; another deployment would refuse it too, unless `fallback_on` says otherwise
    credential  the configured key, quota or model name; the deployment is not usable for a while
    busy        the deployment is rate limited or overloaded
    transient   a retry may succeed
    disguised   status 200, but not a valid answer

`Failure.upstream_message` holds the upstream's own message. Only `disclosed` copies it into the message for the client,
after masking the deployment's secrets.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import replace

from codellama_proxy.core.masking import Clean, sentence, words
from codellama_proxy.core.types import Failure, FailureClass
from codellama_proxy.failures import repairs, wording
from codellama_proxy.failures.error_body import UpstreamError

BY_STATUS: Mapping[int, FailureClass] = {
    400: "caller",
    401: "credential",
    402: "credential",
    403: "credential",
    404: "caller",
    407: "credential",
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

MAX_PARAM_CHARACTERS = 256
MAX_WAIT_SECONDS = 86400.0
"""Seconds; longer waits are cut to this."""
CALLER_REASONS = frozenset({400, 403, 413, 422, 498})
"""Statuses that may be the fault of the request's content."""


class AttemptError(Exception):
    """An attempt failed. Raised by adapters and by the upstream client, caught by the attempt loop."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def of_status(status: int, headers: Mapping[str, str], error: UpstreamError, now: float) -> Failure:
    """The failure for a status other than 200. `now` is unix seconds, for HTTP dates in Retry-After."""
    if status < 400:
        reason = "redirect" if status >= 300 else f"http_{status}"
        return replace(disguised(reason, status=status), refused=status >= 300)
    return _classed(status, error, f"http_{status}", retry_after(headers, now))


def in_band(error: UpstreamError, status: int | None = None) -> Failure:
    """The failure for an error inside a 200: the whole body, or any event of a stream.

    An error with a status, or a code or type that stands for one, is classified as that status.
    """
    own = error.status or wording.STATUSES.get(error.code) or wording.STATUSES.get(error.type)
    if own is None and status is not None and status >= 400:
        own = status
    if own is not None:
        return _classed(own, error, "error_in_200")
    reason = _caller_reason(error)
    return _failure("caller" if reason else "disguised", status, error, reason=reason or "error_in_200")


def _classed(status: int, error: UpstreamError, otherwise: str, wait: float | None = None) -> Failure:
    """`otherwise` is the reason where the error has no better one."""
    reason = _caller_reason(error) if status in CALLER_REASONS else ""
    if reason:
        return _failure("caller", status, error, reason=reason, wait=wait)
    cls = _class_of(status, error, wait)
    if cls == "caller" and status in (400, 404) and wording.passes_over(error.message):
        passed = _failure("credential", status, error, reason=otherwise, wait=wait)
        return replace(passed, cools=False)
    return _failure(cls, status, error, reason=otherwise, wait=wait)


def disguised(reason: str, *, status: int | None = None) -> Failure:
    """A 200 that is not an answer: `not_json`, `no_choices`, `empty_stream`, `cut_stream` ..."""
    return _failure("disguised", status, UpstreamError(), reason=reason, refused=False)


def too_large(*, answered: bool) -> Failure:
    """The failure for an answer over the size limit. The request made it that large: no retry and no cooldown."""
    if not answered:
        return disguised("too_large", status=200)
    return Failure(
        "caller",
        status=200,
        code="upstream_invalid_response",
        message="The upstream's answer is larger than this proxy accepts.",
        reason="too_large",
    )


def unreachable(reason: str, *, sent: bool) -> Failure:
    """No HTTP answer at all: `connect`, `tls`, `read` ...; `sent`: the request may have been processed."""
    return Failure("transient", reason=reason, sent=sent, message="The upstream could not be reached.")


def timed_out(reason: str, *, sent: bool = True) -> Failure:
    """`connect_timeout`, `first_token_timeout`, `idle_timeout`, `answer_timeout`."""
    message = "The upstream did not answer in time."
    return Failure("transient", code="upstream_timeout", reason=reason, sent=sent, message=message)


def _class_of(status: int, error: UpstreamError, wait: float | None) -> FailureClass:
    said = {error.code.lower(), error.type.lower()}
    if status in (400, 429) and said & wording.QUOTA:
        return "credential"
    if status in (400, 404) and said & (wording.KEY | wording.MODEL):
        return "credential"
    if status == 503 and wait is not None:
        return "busy"
    return BY_STATUS.get(status, "transient" if status >= 500 else "caller")


def _caller_reason(error: UpstreamError) -> str:
    return wording.caller_reason(error.message, error.code, flagged=error.flagged)


def _failure(
    cls: FailureClass,
    status: int | None,
    error: UpstreamError,
    *,
    reason: str,
    wait: float | None = None,
    refused: bool = True,
) -> Failure:
    code = {"context_length": "context_length_exceeded", "content_filter": "content_filter"}.get(
        reason, CODE_OF_CLASS[cls]
    )
    callers = cls == "caller"
    unsupported = _unsupported(status, error) if callers else ""
    if unsupported == repairs.REASONING:
        reason = repairs.refused_reasoning(error.code, error.message)
    return Failure(
        cls,
        status=status,
        code=code,
        message=MESSAGE_OF_CLASS[cls],
        retry_after=wait,
        reason=reason,
        refused=refused,
        upstream_message=error.message if callers else "",
        upstream_param=error.param if callers else None,
        unsupported=unsupported,
    )


def _unsupported(status: int | None, error: UpstreamError) -> str:
    """What the next attempt there is to go without; empty if the failure does not say."""
    if status in (404, 405):
        return repairs.ENDPOINT
    if status not in (400, 422):
        return ""
    return repairs.named(error.code, error.type, error.message, error.param)


DISCLOSED_WHOLE = frozenset({None, 200, 400, 413, 422})
"""Statuses whose message the client sees in full; of others it sees the first sentence."""


def disclosed(failure: Failure, clean: Clean) -> Failure:
    """The failure with the upstream's own message, masked by `clean`, as its message for the client."""
    if not failure.upstream_message and failure.upstream_param is None:
        return failure
    shown = (words if failure.status in DISCLOSED_WHOLE else sentence)(failure.upstream_message, clean)
    param = words(failure.upstream_param or "", clean, MAX_PARAM_CHARACTERS) or None
    return replace(
        failure, message=shown or failure.message, param=param, upstream_message="", upstream_param=None
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait: `retry-after-ms`, else `retry-after` as seconds or HTTP date; `None` for neither or nonsense."""
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_WAIT_SECONDS)
    value = headers.get("retry-after", "")
    seconds = _seconds(value)
    if seconds is None:
        seconds = _until(value, now)
    return None if seconds is None else min(seconds, MAX_WAIT_SECONDS)


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
